"""Table 1 of Conditional MixLoRA: what is asked is of no kind that is trained, and what an interval says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet
import pytest

from llava_moe.data.conversation import Conversation
from llava_moe.data.source import open_records
from llava_moe.eval.tasks.demo import EMBEDDED_IMAGES
from llava_moe.reproduce.figures import mixlora_table1
from llava_moe.reproduce.index import find
from llava_moe.reproduce.page import write_page
from tests.reproduce.composed_mixture import mixture_of_cell
from tests.reproduce.written_cells import grid_of, setup_of, write_cells

UNSEEN = {domain: score.kinds for domain, score in setup_of("mixlora", "table1").measures.scores.items()}


def asked_of_embedded(domain: str) -> list[Mapping[str, Any]]:
    columns = ["id", "conversations", "kinds", "split", "closed"]
    return pyarrow.parquet.read_table(EMBEDDED_IMAGES / f"{domain}.parquet", columns=columns).to_pylist()


def test_no_question_of_an_unseen_kind_is_trained_on_and_each_of_another_kind_is(tmp_path: Path) -> None:
    cell = grid_of(setup_of("mixlora", "table1")).by_name["mixlora_e16r4-seen-seed0"]
    for source in mixture_of_cell(cell).sources:
        records = open_records(source, tmp_path)
        trained = [cast(Conversation, records.read(place, place + 1)[0].content) for place in range(len(records))]
        found = sorted(turn.text.removeprefix("<image>\n") for one in trained for turn in one.turns[::2])
        expected = sorted(
            turn["text"]
            for row in asked_of_embedded(source.domain)
            if row["split"] == "train"
            for kind, turn in zip(row["kinds"], row["conversations"][::2], strict=True)
            if kind not in UNSEEN[source.domain]
        )
        assert found == expected and source.cap is not None and len(records) >= source.cap


@pytest.mark.parametrize("domain", UNSEEN)
def test_an_unseen_kind_has_closed_questions_and_no_answer_that_training_never_says(domain: str) -> None:
    rows = asked_of_embedded(domain)
    answers: dict[str, set[str]] = {"trained": set(), **{kind: set() for kind in UNSEEN[domain]}}
    splits: dict[str, set[str]] = {kind: set() for kind in UNSEEN[domain]}
    for row in rows:
        for kind, is_closed, turn in zip(row["kinds"], row["closed"], row["conversations"][1::2], strict=True):
            if kind in splits:
                assert is_closed
                splits[kind].add(row["split"])
                answers[kind].add(turn["text"])
            elif row["split"] == "train":
                answers["trained"].add(turn["text"])
    assert all({"val", "test"} <= there for there in splits.values())
    assert all(answers[kind] <= answers["trained"] for kind in UNSEEN[domain])


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_models_differ_in_their_adapter_alone_and_rank_4_is_held_against_rank_4(scale: str) -> None:
    setup = setup_of("mixlora", "table1", scale)
    cells = [cell for cell in grid_of(setup).cells if cell.labels["seed"] == 0 and cell.labels["on"] == "seen"]
    assert len(cells) == 5
    others = {tuple(word for word in cell.words if not word.startswith("adapter")) for cell in cells}
    assert len(others) == 1 and {cell.start for cell in cells} == {cells[0].start}
    asked = {task for told in setup.axes["asked"].values() for task in told["tasks"]}
    assert asked == set(setup.measures.scores)


@pytest.mark.parametrize(
    ("levels", "verdicts"),
    [
        ({"lora_r4": 0.3, "lora_r32": 0.4}, ["seen", "seen"]),
        ({"lora_r4": 0.8, "mixlora_e16r2": 0.5, "lora_r32": 0.5}, ["not seen", "undecided"]),
    ],
)
def test_mixlora_is_held_against_lora_of_its_rank_and_of_a_higher_one(
    levels: Mapping[str, float], verdicts: list[str], tmp_path: Path
) -> None:
    setup = setup_of("mixlora", "table1")
    results = write_cells(tmp_path / "cells", setup, lambda labels, _: levels.get(labels["model"], 0.6))
    assert [answer.verdict for answer in mixlora_table1.sheet(setup, results).answers] == verdicts
    written = write_page(find("mixlora", "table1"), setup, results, tmp_path, "llava-moe reproduce")
    told = json.loads((tmp_path / "results.json").read_text())
    ours = {one["id"]: one["ours"] for one in told["published"]}
    assert ours["mixlora_e16r4 mean"].endswith("% of questions, unseen kinds of question")
    assert ours["mixlora_e16r4 mme"] is None
    page = written.page.read_text()
    assert "1345.86 (MME" in page and "Here it is a kind of question: general: footwear, larger emoji" in page
