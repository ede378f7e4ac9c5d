"""Shards as they are written, read back by Arrow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llava_moe.data.readers.shards import SHARD_SCHEMA
from llava_moe.datatools.prepare.shard_file import ShardFile


def row(number: int, content: bytes | None = None) -> dict[str, Any]:
    image = {"path": None, "bytes": content, "sha256": "00", "width": 3, "height": 4}
    return {
        "id": f"r{number}",
        "images": [] if content is None else [image],
        "conversations": [
            {"role": "user", "text": f"<image> {number}", "is_supervised": None},
            {"role": "assistant", "text": "red " * 50, "is_supervised": None if number else False},
        ],
        "system": "Be brief." if number else None,
        "caption": None,
        "split": "train",
        "source": "own",
        "domain": "general",
        "task": None,
    }


def test_rows_come_back_in_their_groups_and_the_file_is_what_its_hash_says(tmp_path: Path) -> None:
    groups = [[row(0, b"\xff\xd8" * 400), row(1)], [row(2)]]
    with ShardFile(tmp_path / "a.parquet") as shard:
        for group in groups:
            shard.write(group)
    content = (tmp_path / "a.parquet").read_bytes()
    assert (shard.num_bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.schema_arrow.equals(SHARD_SCHEMA)
    assert [file.read_row_group(group).to_pylist() for group in range(file.num_row_groups)] == groups


def test_images_are_stored_as_they_are_and_text_is_compressed(tmp_path: Path) -> None:
    with ShardFile(tmp_path / "a.parquet") as shard:
        shard.write([row(0, b"\xff\xd8" * 400)])
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    columns = {group.column(place).path_in_schema: group.column(place) for place in range(group.num_columns)}
    stored = columns["images.list.element.bytes"]
    assert stored.compression == "UNCOMPRESSED" and set(stored.encodings) == {"PLAIN", "RLE"}
    assert columns["conversations.list.element.text"].compression == "ZSTD"
    assert b"\xff\xd8" * 400 in (tmp_path / "a.parquet").read_bytes()


def test_a_shard_that_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ShardFile(tmp_path / "a.parquet") as shard:
        shard.write([row(0)])
        raise KeyError
    assert not list(tmp_path.iterdir())
