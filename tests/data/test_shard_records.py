"""Prepared folders are read in place, as the raw files would be; one that is not whole is one clear line."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.data.conversation import BadRecord, StoredImage, image_identity, record_key
from llava_moe.data.readers.shards import MANIFEST, PREPARING, SHARD_SCHEMA, Manifest, Shard, write_manifest
from llava_moe.data.records import Source
from llava_moe.data.shard_records import ShardRecords
from llava_moe.data.source import open_records, prepared_folder
from llava_moe.errors import UserError


def row(number: int, image: bytes | str | None, split: str = "train") -> dict[str, Any]:
    stored = {"path": None, "bytes": None, "sha256": None, "width": None, "height": None}
    if isinstance(image, bytes):
        images = [stored | {"bytes": image, "sha256": sha256(image).hexdigest(), "width": 5, "height": 4}]
    else:
        images = [] if image is None else [stored | {"path": image}]
    question = "<image>\nwhat ?" if images else "what ?"
    conversations = [{"role": "user", "text": question}, {"role": "assistant", "text": f"answer {number}"}]
    return {"id": f"r{number}", "images": images, "conversations": conversations, "split": split, "task": "qa"}


def prepare(
    folder: Path, splits: dict[str, list[list[dict[str, Any]]]], rows_a_group: int = 3, schema: pa.Schema = SHARD_SCHEMA
) -> Manifest:
    """A prepared folder with the given shards of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for split, parts in splits.items():
        for number, rows in enumerate(parts):
            name = f"{split}-{number:05d}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / name, row_group_size=rows_a_group)
            content = (folder / name).read_bytes()
            shards.append(Shard(name, split, len(rows), len(content), sha256(content).hexdigest()))
    manifest = Manifest("mine", str(folder / "images"), tuple(shards))
    write_manifest(folder, manifest)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = [b"\x89PNG one", "b.png", None]
    train = [row(number, images[number % 3]) for number in range(20)]
    prepare(tmp_path / "set", {"train": [train[:7], train[7:]], "test": [[row(20, "t.png", "test")]]})
    return tmp_path / "set"


def opened(folder: Path, **more: Any) -> ShardRecords:
    records = open_records(Source("mine", "general", str(folder), **more), folder.parent / "cache")
    assert isinstance(records, ShardRecords)
    return records


def test_a_folder_of_an_earlier_release_has_neither_system_texts_nor_marks_of_loss(tmp_path: Path) -> None:
    def earlier(schema: pa.Schema) -> pa.Schema:
        turn = pa.struct([("role", pa.string()), ("text", pa.string())])
        schema = schema.remove(schema.get_field_index("system"))
        return schema.set(schema.get_field_index("conversations"), pa.field("conversations", pa.list_(turn)))

    rows = [row(number, "b.png") for number in range(3)]
    prepare(tmp_path / "earlier", {"train": [rows]}, schema=earlier(SHARD_SCHEMA))
    prepare(tmp_path / "now", {"train": [rows]})
    before, now = opened(tmp_path / "earlier"), opened(tmp_path / "now")
    assert [before[number] for number in range(3)] == [now[number] for number in range(3)]
    assert [entry.content for entry in before.read(0, 3)] == [entry.content for entry in now.read(0, 3)]


def test_every_record_is_read_whole_alone_and_without_its_image_in_a_stretch(folder: Path) -> None:
    records = opened(folder, split="all")
    assert len(records) == 21 and records.image_root == str(folder / "images")
    for start, stop in ((0, 21), (0, 1), (6, 8), (3, 9), (7, 20), (20, 40)):
        entries = records.read(start, stop)
        assert [entry.id for entry in entries] == [f"r{number}" for number in range(start, min(stop, 21))]
        for entry in entries:
            alone = records[entry.number]
            assert not isinstance(entry.content, BadRecord)
            assert entry.content.turns == alone.turns and alone.task == "qa"
            assert record_key(entry.content) == record_key(alone)
            assert list(map(image_identity, entry.content.images)) == list(map(image_identity, alone.images))
    assert records[0].images == (b"\x89PNG one",) and records[1].images == ("b.png",) and records[2].images == ()
    assert records.read(0, 1)[0].content.images == (StoredImage(sha256(b"\x89PNG one").hexdigest(), 5, 4),)  # type: ignore[union-attr]
    with pytest.raises(IndexError):
        records[21]


def test_a_split_keeps_the_records_numbers(folder: Path) -> None:
    records = opened(folder, split="test", images="/my/images")
    assert len(records) == 1 and records[0].id == "r20" and records.image_root == "/my/images"
    assert records.number(0) == 20 and records.find(20) == 0 and records.find(3) is None
    assert opened(folder, split="all").find(8) == 8 and opened(folder, split="all").find(21) is None
    with pytest.raises(UserError, match=r'no record of split \'val\'; .* has \["test", "train"\]'):
        opened(folder, split="val")


def test_records_are_those_that_the_raw_reader_finds(folder: Path, tmp_path: Path) -> None:
    prepared = opened(folder, split="all")
    source = Source("mine", "general", str(folder / "*.parquet"), format="records", split="all")
    raw = open_records(source, tmp_path / "raw-cache")
    by_id = {raw[index].id: record_key(raw[index]) for index in range(len(raw))}
    assert {prepared[index].id: record_key(prepared[index]) for index in range(21)} == by_id


def _ids(records: ShardRecords, queue: Any) -> None:
    queue.put([records[index].id for index in (20, 0, 13)])


def test_records_cross_process_borders(folder: Path) -> None:
    records = opened(folder, split="all")
    assert records[5].id == "r5"
    assert pickle.loads(pickle.dumps(records))[5].id == "r5"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_ids, args=(records, queue))
    child.start()
    assert queue.get(timeout=60) == ["r20", "r0", "r13"]
    child.join()
    assert records[6].id == "r6"


def test_a_preparation_that_is_not_finished_is_said(tmp_path: Path) -> None:
    (tmp_path / "set" / PREPARING).mkdir(parents=True)
    with pytest.raises(UserError, match=r"'mine'.*not finished; run llava-moe data prepare again"):
        opened(tmp_path / "set")


def test_a_manifest_that_does_not_match_its_shards_is_said(folder: Path) -> None:
    whole = (folder / "train-00001.parquet").read_bytes()
    (folder / "train-00001.parquet").write_bytes(whole[:-3])
    with pytest.raises(UserError, match=r"train-00001\.parquet: [\d,]+ bytes, the manifest says"):
        opened(folder)
    (folder / "train-00001.parquet").write_bytes(b"x" * len(whole))
    with pytest.raises(UserError, match=r"train-00001\.parquet: not a readable shard"):
        opened(folder)[10]
    (folder / "train-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"train-00001\.parquet: in the manifest and not there"):
        opened(folder)


def test_a_manifest_that_counts_otherwise_than_its_shards_is_said(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["shards"][0]["num_records"] = 9
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train-00000\.parquet: 7 records, the manifest says 9"):
        opened(folder)[0]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"shards": [{}]}', '{"shards": [], "recipe": "a"}'])
def test_a_damaged_manifest_is_one_clear_line(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest .*restart=true"):
        opened(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"images": 5},
        {"counts": None},
        {"counts": {"train": None}},
        {"counts": {"train": {"records": "12"}}},
        {"counts": {"train": {"rejected": {"no_turns": "2"}}}},
        {"recipe": None},
        {"raw": [1]},
        {"about": []},
    ],
)
def test_a_manifest_with_a_field_of_the_wrong_type_is_one_clear_line(folder: Path, change: dict[str, Any]) -> None:
    told = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(told | change))
    with pytest.raises(
        UserError, match=rf"manifest\.json: not a manifest \(.*{next(iter(change))}.* is .*restart=true"
    ):
        opened(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_records", "7"),
        ("num_records", -1),
        ("num_bytes", True),
        ("split", 1),
        ("sha256", None),
        *(("file", name) for name in ("../../../etc/passwd", "/etc/passwd", "..", "", "a\0b", 3)),
    ],
)
def test_a_shard_that_no_preparation_wrote_is_refused_before_it_is_looked_for(
    folder: Path, field: str, value: Any
) -> None:
    told = json.loads((folder / MANIFEST).read_text())
    told["shards"][0][field] = value
    (folder / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(UserError, match=rf"manifest\.json: not a manifest \({field} of .*restart=true"):
        opened(folder)


def test_a_prepared_folder_is_not_read_in_the_format_of_its_raw_files(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data source 'mine': .*set is prepared: leave out format=pathvqa$"):
        opened(folder, format="pathvqa")
    assert len(opened(folder, format="records")) == 20
    (folder / MANIFEST).write_text('{"name": "of a download"}')
    assert prepared_folder(Source("mine", "general", str(folder), format="pathvqa")) is None


def test_another_version_of_the_manifest_is_refused(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"version": 99}))
    with pytest.raises(UserError, match="version 99, this program reads"):
        opened(folder)
