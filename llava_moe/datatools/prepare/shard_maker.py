"""A chunk of raw records becomes a shard and its account; what worker processes do."""

from __future__ import annotations

import json
import pickle
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.paths import find_image
from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.row import Row
from llava_moe.data.readers.splits import settled
from llava_moe.datatools.prepare.chunks import Chunk
from llava_moe.datatools.prepare.counts import Counts
from llava_moe.datatools.prepare.image_headers import read_header
from llava_moe.datatools.prepare.int_histogram import Spread
from llava_moe.datatools.prepare.shard_file import ShardFile, fits
from llava_moe.datatools.prepare.tokens import TextTokenizer
from llava_moe.files.atomic_write import replace_file

LOOKED_AT_A_CHUNK = 32
"""Records of a chunk whose image paths are looked at, where not all are."""


@dataclass(frozen=True)
class Order:
    """What must be known to make shards, whatever the chunk.

    Attributes:
        staging: folder that the shards are written to.
        format: of the raw records, a key of ``FORMATS``.
        source, domain: what the records are said to be of.
        images: folder that image paths start from; None where it is not known.
        tokenizer: counts tokens; None where none is at hand.
        probe_images: look at every image path, not a sample.
    """

    staging: str
    format: str
    source: str
    domain: str
    images: str | None
    tokenizer: TextTokenizer | None
    probe_images: bool


@dataclass(frozen=True)
class Made:
    """What became of a chunk.

    Attributes:
        number, split: of the chunk.
        num_rejected: lines in the chunk's file of rejected records.
        num_bytes, sha256: of the shard; 0 and "" where no record was left for one.
        counts: the account.
    """

    number: int
    split: str
    num_rejected: int
    num_bytes: int
    sha256: str
    counts: Counts

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "counts": self.counts.as_dict()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Made:
        """What :meth:`as_dict` wrote."""
        return cls(**{**told, "counts": Counts.from_dict(told["counts"])})


def shard_name(number: int) -> str:
    """Name of a chunk's shard while the others are being made."""
    return f"{number:06d}.parquet"


def rejected_name(number: int) -> str:
    """Name of the file of a chunk's rejected records."""
    return f"{number:06d}.rejected.jsonl"


class ShardMaker:
    """Makes shards; see :class:`Order`."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.reader = FORMATS[order.format]

    def make(self, chunk: Chunk) -> Made:
        """Write the shard of a chunk and the list of what was rejected. Memory: the chunk's and one row group.

        Raises:
            OSError: the disk is full, or the folder cannot be written; nothing is left of the shard then.
        """
        counts = Counts(tokens=None if self.order.tokenizer is None else Spread())
        rejected: list[dict[str, Any]] = []
        path = Path(self.order.staging, shard_name(chunk.number))
        with ShardFile(path) as shard:
            for rows in _groups(self._rows(chunk, counts, rejected)):
                shard.write(rows)
                self._count_tokens(rows, counts)
        if not counts.records:
            path.unlink()
        _write_lines(path.with_name(rejected_name(chunk.number)), rejected)
        made = (shard.num_bytes, shard.sha256) if counts.records else (0, "")
        return Made(chunk.number, chunk.split, len(rejected), *made, counts)

    def _rows(self, chunk: Chunk, counts: Counts, rejected: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        stride = 1 if self.order.probe_images else max(1, len(chunk.records) // LOOKED_AT_A_CHUNK)
        for place, blob in enumerate(chunk.records):
            number, record = pickle.loads(blob)
            row = row_of(self.reader, record, chunk.offset + number)
            if row["split"] and settled(row["split"]) != chunk.split:
                counts.other_split += 1
            elif row["fault"] is not None:
                counts.rejected[row["fault"]] += 1
                told = {"file": chunk.file, "number": number, "id": row["id"]}
                rejected.append(told | {"reason": row["fault"], "detail": row["detail"]})
            else:
                yield self._prepared(row, chunk, counts, looks=place % stride == 0)

    def _prepared(self, row: Row, chunk: Chunk, counts: Counts, looks: bool) -> dict[str, Any]:
        images = []
        for image in row["images"]:
            if image["bytes"] is not None:
                images.append(_stored(image["bytes"], counts))
            else:
                images.append(self._by_path(image["path"], chunk, counts, looks))
        counts.records += 1
        counts.with_images += bool(images)
        counts.images += len(images)
        counts.turns += len(row["turns"])
        task = row["task"] if row["task"] is not None else chunk.label
        if task is not None:
            counts.tasks[task] += 1
        return {
            "id": row["id"],
            "images": images,
            "conversations": row["turns"],
            "system": row["system"],
            "caption": row["caption"],
            "split": chunk.split,
            "source": self.order.source,
            "domain": self.order.domain,
            "task": task,
        }

    def _by_path(self, path: str, chunk: Chunk, counts: Counts, looks: bool) -> dict[str, Any]:
        pictures = counts.pictures
        pictures.paths += 1
        if chunk.prefix and "://" not in path:
            path = posixpath.join(chunk.prefix, path)
        width = height = None
        if looks and self.order.images is not None:
            pictures.looked_at += 1
            try:
                width, height = _look_at(path, self.order.images, counts)
            except BadRecord as fault:
                pictures.faults[fault.reason] += 1
        # A sample's sizes stay out of the rows: a column is known throughout or not at all.
        known = (width, height) if self.order.probe_images else (None, None)
        return {"path": path, "bytes": None, "sha256": None, "width": known[0], "height": known[1]}

    def _count_tokens(self, rows: list[dict[str, Any]], counts: Counts) -> None:
        if self.order.tokenizer is None or counts.tokens is None:
            return
        for length in self.order.tokenizer.count(map(_texts, rows)):
            counts.tokens.add(length)


def _texts(row: Mapping[str, Any]) -> list[str]:
    system = [] if row["system"] is None else [row["system"]]
    return [*system, *(turn["text"] for turn in row["conversations"])]


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    num_bytes = 0
    for row in rows:
        size = sum(len(image["bytes"] or b"") for image in row["images"])
        if not fits(len(group), num_bytes, size):
            yield group
            group, num_bytes = [], 0
        group.append(row)
        num_bytes += size
    if group:
        yield group


def _stored(content: bytes, counts: Counts) -> dict[str, Any]:
    pictures = counts.pictures
    pictures.stored += 1
    pictures.looked_at += 1
    header, fault = None, "image_unreadable"
    try:
        header = read_header(content)
    except BadRecord as error:
        fault = error.reason
    if header is None:
        pictures.faults[fault] += 1
    else:
        pictures.formats[header.format] += 1
        pictures.num_bytes.add(len(content))
        pictures.widths.add(header.width)
        pictures.heights.add(header.height)
    width, height = (0, 0) if header is None else (header.width, header.height)
    return {"path": None, "bytes": content, "sha256": sha256(content).hexdigest(), "width": width, "height": height}


def _look_at(path: str, root: str, counts: Counts) -> tuple[int, int]:
    file = find_image(path, root)
    header = read_header(file)
    if header is None:
        raise BadRecord("image_unreadable", f"{path} is no image that Pillow knows")
    pictures = counts.pictures
    pictures.formats[header.format] += 1
    pictures.num_bytes.add(file.stat().st_size)
    pictures.widths.add(header.width)
    pictures.heights.add(header.height)
    return header.width, header.height


def _write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    if not entries:
        path.unlink(missing_ok=True)
        return
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    replace_file(path, text.encode(errors="backslashreplace"))
