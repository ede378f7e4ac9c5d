"""A quarantine list takes its records out as if they had never been there, and is refused where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_moe.data.encode import Encoder
from llava_moe.data.mixture import Mixture
from llava_moe.data.quarantine import Quarantine, Quarantined
from llava_moe.data.quarantine_filter import leave_out, read_list
from llava_moe.data.records import Source
from llava_moe.data.source import ArrowRecords, open_records
from llava_moe.data.source_index import SourceIndex, index_source
from llava_moe.errors import UserError

Opened = tuple[Source, ArrowRecords, SourceIndex]


def record(number: int) -> dict[str, Any]:
    answer = " " if number == 7 else "a cat"
    turns = [{"from": "human", "value": f"what is {number} ?"}, {"from": "gpt", "value": answer}]
    return {"id": f"r{number}", "conversations": turns}


def listed(*numbers: int, source: str = "mine") -> list[Quarantined]:
    return [Quarantined(source, "general", number, f"r{number}", "image_missing", "no file") for number in numbers]


@pytest.fixture
def open_numbers(
    tmp_path: Path, write_json: Callable[..., Path], make_encoder: Callable[..., Encoder]
) -> Callable[..., Opened]:
    def open_them(numbers: list[int], name: str = "a.json") -> Opened:
        source = Source("mine", "general", str(write_json([record(number) for number in numbers], name)))
        records = open_records(source, tmp_path / "cache")
        assert isinstance(records, ArrowRecords)
        return source, records, index_source(source, records, make_encoder(system=""), tmp_path / "cache")

    return open_them


def keys_in_order(source: Source, index: SourceIndex, epoch: int) -> list[str]:
    plan = Mixture((source,), seed=3).plan([index], epoch)
    return [index.keys[entry].tobytes().hex() for entry in plan.entry.tolist()]


def test_what_is_left_is_planned_as_if_the_listed_had_never_been_there(open_numbers: Callable[..., Opened]) -> None:
    source, records, index = open_numbers(list(range(30)))
    out = [0, 4, 7, 12, 13, 29]
    (kept,), accepted = leave_out([source], [records], [index], listed(*out), Path("q"))
    _, _, clean = open_numbers([number for number in range(30) if number not in out], "clean.json")
    assert len(accepted) == 6 and np.array_equal(kept.keys, clean.keys)
    for epoch in (0, 1):
        assert keys_in_order(source, kept, epoch) == keys_in_order(source, clean, epoch)
    assert keys_in_order(source, kept, 0) != keys_in_order(source, index, 0)


def test_records_of_other_sources_are_passed_over(open_numbers: Callable[..., Opened]) -> None:
    source, records, index = open_numbers(list(range(9)))
    (kept,), accepted = leave_out([source], [records], [index], listed(1, source="theirs"), Path("q"))
    assert kept is index and accepted == ()


@pytest.mark.parametrize(
    "entry",
    [
        Quarantined("mine", "general", 3, "r4", "x", ""),
        *listed(99),
        Quarantined("mine", "general", 3, "r3", "x", "", 10),
    ],
)
def test_a_list_of_other_data_is_refused(entry: Quarantined, open_numbers: Callable[..., Opened]) -> None:
    source, records, index = open_numbers(list(range(9)))
    with pytest.raises(UserError, match=f"q was made of other data: .*record {entry.index} "):
        leave_out([source], [records], [index], [entry], Path("q"))


def test_records_of_another_split_are_neither_left_out_nor_counted(
    tmp_path: Path, write_json: Callable[..., Path], make_encoder: Callable[..., Encoder]
) -> None:
    many = [record(number) | {"split": "train" if number < 5 else "test"} for number in range(9)]
    source = Source("mine", "general", str(write_json(many)), split="train")
    records = open_records(source, tmp_path / "cache")
    index = index_source(source, records, make_encoder(system=""), tmp_path / "cache")
    (kept,), accepted = leave_out([source], [records], [index], listed(1, 6, 8), Path("q"))
    assert [entry.index for entry in accepted] == [1] and kept.rows.tolist() == [0, 2, 3, 4]


def test_a_list_that_leaves_nothing_is_refused(open_numbers: Callable[..., Opened]) -> None:
    source, records, index = open_numbers(list(range(9)))
    with pytest.raises(UserError, match="leaves nothing of source 'mine'"):
        leave_out([source], [records], [index], listed(*range(9)), Path("q"))


def test_a_list_is_read_back_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    lines = [json.dumps(asdict(entry) | {"severity": "fault"}) for entry in listed(3, 5)]
    path.write_text("\n".join(lines) + "\n\n")
    assert read_list(path) == tuple(listed(3, 5))
    for bad in ('{"source": "mine"}', "{", "[]", '{"source": "a", "index": "x", "id": 1, "reason": ""}'):
        path.write_text(lines[0] + "\n" + bad)
        with pytest.raises(UserError, match="line 2: no record of a quarantine list"):
            read_list(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_list(tmp_path / "none.jsonl")


def test_listed_records_are_written_down_and_not_held_against_the_source(tmp_path: Path) -> None:
    entries = listed(*range(50))
    with pytest.raises(UserError, match="50 of 100 records are bad"):
        Quarantine(tmp_path / "a.jsonl", {"mine": 100}).add(entries)
    quarantine = Quarantine(tmp_path / "b.jsonl", {"mine": 100}, accepted=entries)
    assert quarantine.add(entries) == 50 and not quarantine.is_over()
    with pytest.raises(UserError, match="2 of 100 records are bad"):
        quarantine.add(listed(60, 61))
