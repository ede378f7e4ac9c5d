"""Raw files cut into chunks by records and bytes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from llava_moe.data.readers.formats import FORMATS
from llava_moe.data.readers.reader import RawFile
from llava_moe.datatools.prepare import chunks
from llava_moe.datatools.prepare.chunks import Chunk, FileEnd, PartFile, cut_file
from llava_moe.datatools.prepare.subsample import Draw
from llava_moe.errors import UserError


def part_file(path: Path) -> PartFile:
    return PartFile(RawFile(str(path), label="coco"), path.name, "train", 0, "", path.stat().st_size, "")


def cut(path: Path, drawing: Any = None) -> tuple[list[Chunk], FileEnd, list[tuple[int, int]]]:
    steps: list[tuple[int, int]] = []
    told = list(cut_file(FORMATS["llava"], part_file(path), 3, 10, 100, drawing, lambda *step: steps.append(step)))
    *cuts, end = told
    assert isinstance(end, FileEnd)
    return [one for one in cuts if isinstance(one, Chunk)], end, steps


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.jsonl"
    path.write_text("".join(json.dumps({"id": n, "task": n % 2, "text": "x" * n}) + "\n" for n in range(25)))
    return path


def test_chunks_end_by_number_of_records(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ROWS_A_CHUNK", 10)
    found, end, steps = cut(raw)
    assert [(chunk.number, len(chunk.records)) for chunk in found] == [(10, 10), (11, 10), (12, 5)]
    assert end == FileEnd(3, 25, 3)
    assert {(chunk.split, chunk.label, chunk.offset, chunk.file) for chunk in found} == {
        ("train", "coco", 100, "raw.jsonl")
    }
    records = [pickle.loads(blob) for chunk in found for blob in chunk.records]
    assert records == [(n, {"id": n, "task": n % 2, "text": "x" * n}) for n in range(25)]
    assert sum(records for _, records in steps) == 25
    assert sum(num_bytes for num_bytes, _ in steps) == sum(chunk.num_bytes for chunk in found)


def test_chunks_end_by_bytes(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BYTES_A_CHUNK", 200)
    found, end, _ = cut(raw)
    assert len(found) == end.num_chunks > 5
    for chunk in found[:-1]:
        assert chunk.num_bytes >= 200 > chunk.num_bytes - len(chunk.records[-1])


def test_records_that_are_not_drawn_keep_their_numbers_to_themselves(raw: Path) -> None:
    draw = Draw(key="task", max_per_task=4, seed=1)
    found, end, _ = cut(raw, draw.start({"0": 13, "1": 12}))
    numbers = [pickle.loads(blob)[0] for chunk in found for blob in chunk.records]
    assert len(numbers) == 8 and sum(number % 2 for number in numbers) == 4 and numbers == sorted(numbers)
    assert end.num_records == 25


def test_a_file_without_records_is_an_end_alone(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_text("[]")
    assert cut(tmp_path / "raw.json")[:2] == ([], FileEnd(3, 0, 0))


def test_reading_that_breaks_off_says_where(raw: Path) -> None:
    class Broken:
        def find(self, path: str) -> list[RawFile]:
            raise NotImplementedError

        def records(self, file: RawFile) -> Any:
            yield {"id": 1}
            raise OSError(5, "Input/output error")

        def row(self, record: Any, number: int) -> Any:
            raise NotImplementedError

    with pytest.raises(UserError, match=r"raw.jsonl: reading broke off behind record 1 .*again"):
        list(cut_file(Broken(), part_file(raw), 0, 0, 0, None, lambda *_: None))
