"""Which split is read: what files, folders, shards and records say, and what is named where nothing is asked for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.data.readers.splits import settled
from llava_moe.data.records import Source
from llava_moe.data.source import ArrowRecords, open_records
from llava_moe.errors import UserError

Write = Callable[[Path, list[dict[str, Any]]], None]


def records_of(prefix: str, count: int, **more: Any) -> list[dict[str, Any]]:
    turns = [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "so"}]
    return [{"id": f"{prefix}{number}", "conversations": turns, **more} for number in range(count)]


def parquet(path: Path, records: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(records), path.with_suffix(".parquet"))


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.with_suffix(".jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def packed(path: Path, records: list[dict[str, Any]]) -> None:
    path.with_suffix(".json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))


def opened(path: Path, split: str | None = None, cache: Path | None = None) -> ArrowRecords:
    place = cache or next(folder for folder in (path, *path.parents) if folder.is_dir()).parent / "cache"
    records = open_records(Source("mine", "general", str(path), split=split), place)
    assert isinstance(records, ArrowRecords)
    return records


def ids(records: ArrowRecords) -> list[str]:
    return [records[number].id for number in range(len(records))]


@pytest.mark.parametrize("write", [parquet, lines, packed])
@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "validation-00000-of-00001", "test-00000-of-00001"),
        ("train", "dev", "test"),
        ("data/train-0", "data/valid-0", "data/test-0"),
        ("train/0000", "val/0000", "test/0000"),
        ("data/train/part_0", "data/validation/part_0", "data/test/part_0"),
    ],
)
def test_a_folder_is_read_by_the_splits_in_its_names(tmp_path: Path, write: Write, names: tuple[str, ...]) -> None:
    for name, split, count in zip(names, ("train", "val", "test"), (8, 4, 3), strict=True):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "set" / name, records_of(split, count))
    (tmp_path / "set" / "dataset_infos.json").write_text("{}")
    default = opened(tmp_path / "set")
    assert ids(default) == [f"train{number}" for number in range(8)]
    line = default.unread
    assert line is not None and "test (3 records), val (4 records)" in line and "\n" not in line
    for word in ("val", "validation", "valid", "dev", "Validation"):
        chosen = opened(tmp_path / "set", word)
        assert ids(chosen) == [f"val{number}" for number in range(4)] and chosen.unread is None
    assert len(opened(tmp_path / "set", "all")) == 15 and opened(tmp_path / "set", "train").unread is None
    with pytest.raises(UserError, match=r"no record of split 'tets'; .* has \[\"test\", \"train\", \"val\"\]"):
        opened(tmp_path / "set", "tets")


def test_globs_read_by_the_same_names_and_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        lines(tmp_path / split / "a", records_of(split, 2))
        lines(tmp_path / f"{split}-a", records_of(f"{split}-", 1))
    cache = tmp_path / "cache"
    assert ids(opened(tmp_path / "*" / "*.jsonl", None, cache)) == ["train0", "train1"]
    assert ids(opened(tmp_path / "*.jsonl", None, cache)) == ["train-0"]
    assert ids(opened(tmp_path / "*.jsonl", "test", cache)) == ["test-0"]


def test_a_column_says_the_split_and_a_record_without_one_is_for_training(tmp_path: Path) -> None:
    many = [*records_of("a", 2, split="train"), *records_of("b", 2), *records_of("c", 1, split=None)]
    many += [*records_of("d", 3, split="validation"), *records_of("e", 1, split="test"), *records_of("f", 1, split="")]
    lines(tmp_path / "mine", many)
    path, cache = tmp_path / "mine.jsonl", tmp_path / "cache"
    default = opened(path, None, cache)
    assert ids(default) == ["a0", "a1", "b0", "b1", "c0", "f0"] and default.number(5) == 9
    assert default.unread is not None and "test (1 records), val (3 records)" in default.unread
    assert ids(opened(path, "train", cache)) == ids(default)
    assert ids(opened(path, "dev", cache)) == ["d0", "d1", "d2"]
    assert len({opened(path, split, cache).fingerprint for split in (None, "val", "all")}) == 3
    assert opened(path, "dev", cache).fingerprint == opened(path, "validation", cache).fingerprint


def test_a_folder_without_training_data_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines(tmp_path / "set" / "test-0", records_of("test", 2))
    with pytest.raises(UserError, match=r"no record of split 'train', which is read without split=.*\[\"test\"\]"):
        opened(tmp_path / "set")


@pytest.mark.parametrize("name", ["validation", "my_test_set", "train"])
def test_a_file_that_is_named_itself_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    lines(tmp_path / name, records_of("x", 2))
    records = opened(tmp_path / f"{name}.jsonl", None, tmp_path / "cache")
    assert ids(records) == ["x0", "x1"] and records.unread is None


def test_a_file_that_is_named_itself_answers_to_the_split_in_its_name(tmp_path: Path) -> None:
    lines(tmp_path / "validation", records_of("x", 2))
    assert len(opened(tmp_path / "validation.jsonl", "val", tmp_path / "cache")) == 2
    with pytest.raises(UserError, match="no record of split 'test'"):
        opened(tmp_path / "validation.jsonl", "test", tmp_path / "cache")


def test_a_folder_of_records_beside_folders_of_pictures_is_read_alone(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    lines(tmp_path / "set" / "mine", records_of("x", 2))
    lines(tmp_path / "set" / "train" / "picture", records_of("beside a picture", 2))
    assert ids(opened(tmp_path / "set")) == ["x0", "x1"]


def test_the_words_of_a_split_are_one() -> None:
    assert {settled(word) for word in ("val", "valid", "validation", "dev", "VALIDATION", " val ")} == {"val"}
    assert [settled(None), settled(""), settled("Train"), settled("fold-3")] == ["train", "train", "train", "fold-3"]


def test_a_year_behind_the_word_is_no_other_split(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    folder.mkdir()
    for name, prefix in (("captions_train2017", "t"), ("captions_val2017", "v"), ("latest1", "l")):
        lines(folder / name, records_of(prefix, 1))
    assert ids(opened(folder)) == ["t0", "l0"]
    assert ids(opened(folder, "val")) == ["v0"]


@pytest.mark.parametrize("first", ["[]", "[3]"])
def test_a_first_file_without_records_says_nothing_of_the_others(tmp_path: Path, first: str) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "test.json").write_text(first)
    lines(folder / "train", records_of("t", 1))
    assert ids(opened(folder)) == ["t0"]
