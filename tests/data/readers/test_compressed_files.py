"""Files that unpack to far more than they are: read as far as real data go, then refused, in bounded memory."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers import compressed_files, image_refs, json_rows, parquet_batches
from llava_moe.data.readers.files import raw_records
from llava_moe.errors import UserError

RECORD = json.dumps({"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": partial(lzma.compress, preset=1),
    ".zst": lambda content: bytes(pa.compress(content, "zstd", asbytes=True)),
}


@pytest.fixture(autouse=True)
def little_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed_files, "FREE_BYTES", 1 << 20)


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(PACK[path.suffix](b"".join(parts)))
    return path


@pytest.mark.parametrize("ending", PACK)
def test_blanks_without_end_are_refused(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.jsonl{ending}", RECORD.encode(), *[b" " * (1 << 20)] * 4, RECORD.encode())
    rows = raw_records(str(path))
    assert next(rows)["id"] == "1"
    with pytest.raises(UserError, match="unpacks to more than 250 times its size, as no real data do"):
        next(rows)


@pytest.mark.parametrize("ending", PACK)
def test_what_is_free_and_what_real_data_reach_is_read(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.jsonl{ending}", RECORD.encode(), b" " * (900 << 10), RECORD.encode())
    assert len(list(raw_records(str(path)))) == 2
    photograph = base64.b64encode(os.urandom(200_000)).decode()
    lines = [json.dumps({"id": str(number), "image": photograph}).encode() + b"\n" for number in range(5)]
    path = write(tmp_path / f"b.jsonl{ending}", *lines)
    assert sum(map(len, lines)) > 1 << 20 and len(list(raw_records(str(path)))) == 5


def test_a_record_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MOST_CHARACTERS", 1 << 20)
    (tmp_path / "a.jsonl").write_text('{"id": "' + "x" * (5 << 20))
    with pytest.raises(UserError, match="a record of more than 1,048,576 characters"):
        list(raw_records(str(tmp_path / "a.jsonl")))


def test_an_image_of_base64_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_refs, "MOST_BASE64", 1_000)
    text = base64.b64encode(b"\x89PNG" + bytes(3_000)).decode()
    for one in (text, f"data:image/png;base64,{text}"):
        with pytest.raises(BadRecord, match="characters of base64; at most 1,000 are read"):
            image_refs.from_base64(one)
    assert image_refs.from_base64("images/" + "x" * 5_000) is None


@pytest.mark.parametrize("kind", ["one value", "a dictionary", "many values"])
def test_a_parquet_file_that_unpacks_without_end_is_refused(kind: str, tmp_path: Path) -> None:
    text = "x" * (2 << 20)
    columns = {
        "one value": pa.array(["x" * (8 << 20)]),
        "a dictionary": pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array([text])),
        "many values": pa.array([text] * 8),
    }
    path = tmp_path / "a.parquet"
    dictionary = {"use_dictionary": kind == "a dictionary", "dictionary_pagesize_limit": 1 << 30}
    table = pa.table({"id": columns[kind]})
    pq.write_table(table, path, compression="zstd", write_statistics=False, store_schema=False, **dictionary)
    with pytest.raises(UserError, match="unpacks to more than 250 times its size"):
        list(raw_records(str(path)))


def test_large_values_come_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_batches, "BATCH_BYTES", 1 << 20)
    images = [os.urandom(200_000) for _ in range(10)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=4)
    content = (tmp_path / "a.parquet").read_bytes()
    table = pq.ParquetFile(io.BytesIO(content))
    batches = list(parquet_batches.bounded_batches("a", table, io.BytesIO(content)))
    assert [len(batch) for batch in batches] == [1] * 8 + [2] and len(table.read()) == 10
    assert [row["image"] for row in raw_records(str(tmp_path / "a.parquet"))] == images


@pytest.mark.parametrize("num_rows", [0, 3])
def test_a_table_without_columns_has_no_records(num_rows: int, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1] * num_rows}).select([]), path)
    with pq.ParquetFile(path) as table:
        assert table.metadata.num_columns == 0
    assert list(raw_records(str(path))) == [{}] * table.metadata.num_rows


def test_columns_whose_names_are_no_text_are_named_as_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"name": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"name", b"\x94ame"))
    with pytest.raises(UserError, match="not a readable Parquet file"):
        list(raw_records(str(path)))
