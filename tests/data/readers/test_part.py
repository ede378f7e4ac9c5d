"""Parts of records files: whole tasks, and kinds of question that training never sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.row import Row
from llava_moe.errors import UserError

PAIRS = {"color": ("Which color?", "Red"), "side": ("Which side?", "Left"), "count": ("How many?", "2")}


def record(name: str, task: str, split: str | None, *kinds: str) -> dict[str, Any]:
    turns = [
        {"role": role, "text": text}
        for kind in kinds
        for role, text in zip(("user", "assistant"), PAIRS[kind], strict=True)
    ]
    told = {"id": name, "images": ["a.png"], "conversations": turns, "kinds": list(kinds), "task": task}
    return told if split is None else told | {"split": split}


RECORDS = (
    record("a", "flag", "train", "color", "side"),
    record("b", "chart", None, "side"),
    record("c", "chart", "validation", "side", "count"),
    record("d", "flag", "test", "color"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "records.jsonl", *RECORDS)


def written(path: Path, *records: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def rows_of(path: str) -> list[Row]:
    reader = FORMATS["part"]
    return [
        row_of(reader, one, number) for file in reader.find(path) for number, one in enumerate(reader.records(file))
    ]


def asked(rows: list[Row]) -> dict[str, list[str]]:
    questions = {PAIRS[kind][0]: kind for kind in PAIRS}
    plain = [[turn["text"].removeprefix("<image>\n") for turn in row["turns"][::2]] for row in rows]
    return {row["id"]: [questions[text] for text in texts] for row, texts in zip(rows, plain, strict=True)}


def test_questions_of_unseen_kinds_are_kept_out_of_training_and_are_all_that_is_asked_elsewhere(file: Path) -> None:
    rows = rows_of(f"{file},unseen=side")
    assert asked(rows) == {"a": ["color"], "c": ["side"]}
    assert asked(rows_of(f"{file},unseen=color|count")) == {
        "a": ["side"],
        "b": ["side"],
        "c": ["count"],
        "d": ["color"],
    }
    assert all(row["turns"][0]["text"].startswith("<image>") and row["fault"] is None for row in rows)


def test_a_file_that_is_named_after_a_split_is_of_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    written(tmp_path / "data" / "train.jsonl", record("a", "flag", None, "color", "side"))
    written(tmp_path / "data" / "val.jsonl", record("b", "flag", None, "color", "side"))
    assert asked(rows_of(f"{tmp_path / 'data'},unseen=side")) == {"a": ["color"], "b": ["side"]}


def test_records_of_some_tasks_are_read_whole(file: Path) -> None:
    assert asked(rows_of(f"{file},tasks=chart")) == {"b": ["side"], "c": ["side", "count"]}
    assert [*asked(rows_of(f"{file},tasks=chart|flag"))] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ("", "chooses no part: give FILE,tasks=A|B or FILE,unseen=A|B"),
        (",kinds=side", "chooses no part"),
        (",unseen=side|sides", "has no 'sides', which unseen=side|sides names"),
        (",tasks=flags", "has no 'flags', which tasks=flags names"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(chosen: str, told: str, file: Path) -> None:
    with pytest.raises(UserError) as refused:
        rows_of(f"{file}{chosen}")
    assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("kinds", [None, ["color"], ["color", "side", "count"], [["color"], "side"], 3])
def test_records_that_do_not_name_the_kind_of_each_question_are_refused(kinds: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "bad.jsonl", RECORDS[0] | {"kinds": kinds})
    with pytest.raises(UserError, match="record 0 does not name the kind of each question in kinds"):
        rows_of(f"{file},unseen=side")
