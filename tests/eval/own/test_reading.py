"""One's own files read as questions: formats, images, ids, splits, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.data.conversation import Turn
from llava_moe.errors import UserError
from llava_moe.eval.own.names import name_of_file, refuse_shared_names
from llava_moe.eval.own.reading import read_own_file
from llava_moe.eval.tasks import open_benchmark
from tests.eval.own.files import asking, paint, write_lines, write_questions


def llava(image: str | None, *texts: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    return {**({} if image is None else {"image": image}), "conversations": turns, **more}


def test_the_three_formats_ask_the_same(tmp_path: Path) -> None:
    (name,) = paint(tmp_path, 1)
    turns = [{"role": "user", "text": "<image>\nWhat colour?"}, {"role": "assistant", "text": " red "}]
    same = {"id": "7", "domain": "photos"}
    (tmp_path / "a.json").write_text(json.dumps([llava(name, "<image>\nWhat colour?", " red ", **same)]))
    write_lines(tmp_path / "b.jsonl", [asking("<image>\nWhat colour?", " red ", [name], **same)])
    pq.write_table(pa.Table.from_pylist([{"images": [name], "conversations": turns, **same}]), tmp_path / "c.parquet")
    files = [read_own_file(str(tmp_path / one), None) for one in ("a.json", "b.jsonl", "c.parquet")]
    for file in files:
        (record,) = file.asked
        assert (record.id, record.question, record.references) == ("7", "What colour?", ("red",))
        assert record.conversation.images == (str(tmp_path / name),) and record.conversation.domain == "photos"
    assert len({file.content for file in files}) == 1


def test_the_last_answer_is_the_reference_and_what_came_before_is_the_context(tmp_path: Path) -> None:
    (name,) = paint(tmp_path, 1)
    said = llava(name, "<image>\nWhat is it?", "A square.", "And its colour?", "Red", references=["red", "dark red "])
    (record,) = read_own_file(str(write_lines(tmp_path / "q.jsonl", [said])), None).asked
    assert record.question == "And its colour?" and record.references == ("Red", "red", "dark red")
    assert record.conversation.turns[:2] == (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A square."))
    assert record.carried == "What is it?\nA square.\nAnd its colour?"


def test_an_answer_that_is_not_to_be_trained_on_is_asked(tmp_path: Path) -> None:
    record = asking("How many?", "two")
    record["messages"][1]["weight"] = 0
    assert read_own_file(str(write_lines(tmp_path / "q.jsonl", [record])), None).asked[0].references == ("two",)


def test_ids_are_told_apart_and_domains_have_a_name(tmp_path: Path) -> None:
    records = [asking("a?", "x", id="1"), asking("b?", "x", id="1", domain="d"), asking("c?", "x")]
    file = read_own_file(str(write_lines(tmp_path / "q.jsonl", records)), None)
    assert [record.id for record in file.asked] == ["1#1", "1#2", "2"]
    assert [record.conversation.domain for record in file.asked] == ["other", "d", "other"]
    unnamed = read_own_file(str(write_lines(tmp_path / "r.jsonl", records[2:])), None)
    assert [record.conversation.domain for record in unnamed.asked] == ["all"]


def test_of_a_file_with_splits_test_is_asked(tmp_path: Path) -> None:
    records = [asking(f"{split}?", "x", split=split) for split in ("train", "validation", "test", "train")]
    file = read_own_file(str(write_lines(tmp_path / "q.jsonl", records)), None)
    assert [one.question for one in file.asked] == ["test?"] and len(file.others) == 3
    assert [one.question for one in read_own_file(str(write_lines(tmp_path / "r.jsonl", records[:2])), None).asked] == [
        "validation?"
    ]
    assert len(read_own_file(str(write_lines(tmp_path / "s.jsonl", records[::3])), None).asked) == 2


def test_images_are_found_near_the_file_or_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "data" / "pictures", 1)
    paint(tmp_path / "elsewhere", 1)
    path = str(write_lines(tmp_path / "data" / "q.jsonl", [asking("<image>?", "x", ["0.png"])]).relative_to(tmp_path))
    assert read_own_file(path, None).asked[0].conversation.images == ("data/pictures/0.png",)
    assert read_own_file(path, "elsewhere").asked[0].conversation.images == ("elsewhere/0.png",)


def test_content_changes_with_what_is_asked_alone(tmp_path: Path) -> None:
    def content(*records: dict[str, Any], name: str = "q.jsonl") -> str:
        return read_own_file(str(write_lines(tmp_path / name, records)), None).content

    first = content(asking("a?", "x"), asking("b?", "y"))
    assert content(asking("a?", "x", note="seen"), asking("b?", "y"), name="r.jsonl") == first
    others = [content(asking("a?", "z"), asking("b?", "y")), content(asking("a?", "x")),
              content(asking("a?", "x", references=["w"]), asking("b?", "y"))]  # fmt: skip
    assert first not in others and len({*others}) == 3


TURNS = [{"from": "human", "value": "a?"}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"id": "x", "conversations": [{"from": "human", "value": "a?"}]}]',
         r"record 1 \(id x\): the last question has no answer"),
        (json.dumps(asking("a?", "x")) + "\n" + json.dumps({"messages": [*asking("a?", "x")["messages"],
                                                                    {"role": "user", "content": "b?"}]}),
         r"q\.jsonl, record 2: the last question has no answer"),
        (json.dumps(asking("a?", " ")), r"record 1: the answer in turn 1 is blank"),
        (json.dumps(asking("<image>", "x", ["0.png"])), r"record 1: its last question has no words"),
        (json.dumps(asking("<image>a?", "x")), r"record 1: 1 <image> in the text, 0 images"),
        (json.dumps(asking("<image>a?", "x", ["no.png"], id="k")),
         r"record 1 \(id k\): no file .*no\.png; put it there, or give images=FOLDER"),
        (json.dumps(asking("a?", "x")) + '\n{"messages": [{"role"', r"q\.jsonl, line 2: the file ends inside a record"),
        ("", r"q\.jsonl: holds no records"),
        ("[]", r"q\.jsonl holds no records"),
        ('{"caption": "a boot"}', r"record 1: a caption and no turns"),
        ('{"frage": "a?", "antwort": "x"}', r"none of 1 records is usable.*its keys are frage, antwort"),
        (json.dumps(asking("a?", "x", references="y")), r"record 1: references is str, not a list"),
        (json.dumps(asking("a?", "x", references=["y", ""])), r"record 1: references holds an empty answer"),
        (json.dumps(asking("a?", "x", domain="all")), r"record 1: its domain is all"),
        (json.dumps(asking("a?", "x", id="p@other:q")), r"its id holds @other:"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_asked_is_one_line_with_the_record(tmp_path: Path, text: str, told: str) -> None:
    paint(tmp_path, 1)
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(UserError, match=f"^benchmarks: .*{told}") as error:
        read_own_file(str(tmp_path / "q.jsonl"), None)
    assert "\n" not in str(error.value) and "data source '" not in str(error.value)


def test_a_file_that_is_missing_or_no_picture_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^benchmarks: no file .*nowhere\.jsonl"):
        open_benchmark(str(tmp_path / "nowhere.jsonl"))
    path = write_questions(tmp_path / "q.jsonl")
    (tmp_path / "3.png").write_text("no picture")
    with pytest.raises(UserError, match=r"q\.jsonl, record 4 \(id q3\): .*3\.png.*fix that image"):
        open_benchmark(str(path))


def test_scores_are_called_by_the_files_name() -> None:
    paths = ["a/questions.jsonl", "my val.v2.json.gz", "x/ä-b.parquet", "hf://datasets/o/n/q.jsonl", "folder/"]
    assert [name_of_file(path) for path in paths] == ["questions", "my_val_v2", "ä-b", "q", "folder"]
    for path in ("results.json", "leaks.jsonl", "held_out_loss.json", "....json"):
        with pytest.raises(UserError, match="names its scores"):
            name_of_file(path)


def test_files_whose_scores_would_be_called_alike_are_refused() -> None:
    refuse_shared_names(["demo", "a/q.jsonl", "a/q.jsonl", "a/r.jsonl"], ["demo", "pope"])
    with pytest.raises(UserError, match=r"a/q\.jsonl and b/q\.json would both be called q: rename one"):
        refuse_shared_names(["a/q.jsonl", "b/q.json"], ["demo"])
    with pytest.raises(UserError, match=r"x/pope\.json: pope is a benchmark that there is already"):
        refuse_shared_names(["x/pope.json"], ["demo", "pope"])
