"""Where records come from: one source's files, format, images and place in the mixture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from llava_moe.data.conversation import (
    ASSISTANT,
    IMAGE_PLACEHOLDER,
    USER,
    BadRecord,
    Conversation,
    ImageRef,
    Turn,
    check_images,
    settle_turns,
)
from llava_moe.data.images import find_image
from llava_moe.data.readers import store
from llava_moe.data.readers.json_rows import read_json
from llava_moe.data.readers.llava import llava_row
from llava_moe.data.readers.records import records_row
from llava_moe.data.readers.row import Row, faulty_row
from llava_moe.errors import UserError

FORMATS = ("auto", "llava", "records")
LATER_FORMATS = ("m3it", "ureader", "pathvqa")


@dataclass(frozen=True)
class Source:
    """One source of records.

    Attributes:
        name: unique in a mixture.
        domain: what its losses and experts are counted under.
        path: a file, a folder of Parquet/JSON/JSONL files, or a glob.
        images: the folder that image paths start from.
        split: keep only records whose ``split`` column says this.
        text: ``caption`` makes of each record one image and its ``caption`` column.
        repeats: passes over the source in an epoch (fractions allowed); ``cap``: most records in an epoch;
            ``weight``: share of an epoch, where the mixture fixes the epoch's size (see ``Mixture``).
    """

    name: str
    domain: str
    path: str
    format: str = "auto"
    images: str | None = None
    split: str | None = None
    text: Literal["conversations", "caption"] = "conversations"
    repeats: float = 1.0
    cap: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        where = f"data source {self.name!r}"
        if self.format not in (*FORMATS, *LATER_FORMATS):
            raise UserError(f"{where}: unknown format {self.format!r}; use one of {', '.join(FORMATS)}")
        if self.text not in ("conversations", "caption"):
            raise UserError(f"{where}: text={self.text!r}; use conversations or caption")
        if self.repeats <= 0 or self.weight < 0 or (self.cap is not None and self.cap < 1):
            raise UserError(f"{where}: repeats and cap must be above 0 and weight at least 0")


@dataclass(frozen=True)
class Entry:
    """One record as read: its number in the file, its id, and the conversation or what is wrong with it."""

    number: int
    id: str
    content: Conversation | BadRecord


class Records(Protocol):
    """The records of a source, read on demand."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the records may have changed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation:
        """Record ``index``; raises ``BadRecord`` where it cannot be trained on."""

    def number(self, index: int) -> int:
        """The record's number in its file, from 0 (another than ``index`` where a split was chosen)."""

    def find(self, number: int) -> int | None:
        """The index of the record with this number in the file; None where there is none."""

    def read(self, start: int, stop: int) -> list[Entry]:
        """Records ``start`` to ``stop`` at once, the bad ones among them."""


@dataclass
class ArrowRecords:
    """Records in a memory-mapped Arrow file; see ``readers/store.py``."""

    source: Source
    path: Path
    chosen: np.ndarray | None = None
    _rows: Dataset | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """The kept file's name (which holds the raw files' fingerprint) and the split."""
        return f"{self.path.name}:{self.source.split}:{self.source.text}"

    def __len__(self) -> int:
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        entry = self.read(index, index + 1)[0]
        if isinstance(entry.content, BadRecord):
            raise entry.content
        return entry.content

    def number(self, index: int) -> int:
        """The record's number in its file, from 0."""
        return index if self.chosen is None else int(self.chosen[index])

    def find(self, number: int) -> int | None:
        """The index of the record with this number in the file; None where there is none."""
        index = number if self.chosen is None else int(np.searchsorted(self.chosen, number))
        return index if 0 <= index < len(self) and self.number(index) == number else None

    def read(self, start: int, stop: int) -> list[Entry]:
        """Records ``start`` to ``stop``, good and bad."""
        numbers = range(start, min(stop, len(self))) if self.chosen is None else self.chosen[start:stop].tolist()
        table: pa.Table = self.rows[start:stop] if self.chosen is None else self.rows[numbers]
        return [self._entry(row, number) for row, number in zip(table.to_pylist(), numbers, strict=True)]

    @property
    def rows(self) -> Dataset:
        """The mapped file; opened where it is first needed, so that worker processes open their own."""
        if self._rows is None:
            self._rows = store.map_rows(self.path)
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def _entry(self, row: Row, number: int) -> Entry:
        try:
            return Entry(number, row["id"], _conversation(row, self.source))
        except BadRecord as fault:
            return Entry(number, row["id"], fault)


def open_records(source: Source, cache: Path) -> ArrowRecords:
    """Open a source. Its files are turned once into an Arrow file under ``cache``, keyed by path, size and time.

    Raises:
        UserError: a missing or unreadable file (with the line), an empty source, a split that is not there.
    """
    files = find_files(source)
    kind = _format(source, files)
    key = store.fingerprint(files, kind)
    path = Path(cache) / f"{store.slug(files[0].stem)}-{key[:24]}.arrow"
    store.keep(_rows(files, {"llava": llava_row, "records": records_row}[kind]), path)
    records = ArrowRecords(source, path)
    if source.split is not None:
        records.chosen = _choose_split(records.rows, source)
    if not len(records):
        raise UserError(f"data source {source.name!r}: {source.path} holds no records; check path")
    return records


def check_image_root(source: Source, records: Records, num_probes: int = 32) -> None:
    """Stop before training where the image folder is plainly wrong: no image of ``num_probes`` records is there.

    Raises:
        UserError: naming the folder and one path that was looked for.
    """
    probes = np.unique(np.linspace(0, len(records) - 1, num_probes).astype(int)).tolist()
    missing: list[str] = []
    for probe in probes:
        content = records.read(probe, probe + 1)[0].content
        if isinstance(content, BadRecord) or not content.images or isinstance(content.images[0], bytes):
            continue
        try:
            find_image(content.images[0], source.images)
            return
        except BadRecord as fault:
            missing.append(fault.detail)
    if missing:
        raise UserError(
            f"data source {source.name!r}: none of the {len(missing)} images looked for is there "
            f"({missing[0]}); check images={source.images}"
        )


def _conversation(row: Row, source: Source) -> Conversation:
    if row["fault"] is not None:
        raise BadRecord(row["fault"], row["detail"])
    images: tuple[ImageRef, ...] = tuple(
        image["path"] if image["bytes"] is None else image["bytes"] for image in row["images"]
    )
    turns: tuple[Turn, ...]
    if source.text == "caption":
        turns = (Turn(USER, "\n".join([IMAGE_PLACEHOLDER] * len(images))), Turn(ASSISTANT, row["caption"] or ""))
    else:
        turns = tuple(Turn(turn["role"], turn["text"]) for turn in row["turns"])
    conversation = Conversation(row["id"], images, settle_turns(turns), source.name, source.domain, row["task"])
    check_images(conversation)
    return conversation


def find_files(source: Source) -> list[Path]:
    """The files of a source, in order.

    Raises:
        UserError: none is there, or there is no reader for them.
    """
    where = f"data source {source.name!r}"
    if source.format in LATER_FORMATS:
        # A mixture of the papers' data composes and shows its sources before their readers are here.
        raise UserError(f"{where}: the reader of format {source.format!r} is not there yet; use llava, records")
    path = Path(source.path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".parquet", ".json", ".jsonl"))
        if not files:
            raise UserError(f"{where}: no .parquet, .json or .jsonl file in {path}; check path")
        return files
    if path.exists():
        return [path]
    files = sorted(Path(name) for name in glob(str(path))) if has_magic(str(path)) else []
    if not files:
        raise UserError(f"{where}: no file {path}; check path")
    return files


def _format(source: Source, files: list[Path]) -> str:
    if source.format != "auto":
        return source.format
    records = list(islice(_raw_records(files[0]), 100))
    if not any(isinstance(record, Mapping) for record in records):
        raise UserError(f"data source {source.name!r}: {files[0]} holds no records; check path and format")
    # A file may start with bad records, which say nothing of the others.
    for record in records:
        messages = record.get("conversations", record.get("conversatons")) if isinstance(record, Mapping) else None
        if isinstance(messages, list) and messages and isinstance(messages[0], Mapping):
            return "llava" if "from" in messages[0] else "records"
    return "records"


def _raw_records(file: Path) -> Iterator[Any]:
    if file.suffix != ".parquet":
        yield from read_json(file)
        return
    try:
        for batch in pq.ParquetFile(file, memory_map=True).iter_batches(batch_size=128):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a readable Parquet file ({reason}); fetch it again") from error


def _rows(files: list[Path], make_row: Callable[[Mapping[str, Any], int], Row]) -> Iterator[Row]:
    number = 0
    for file in files:
        for record in _raw_records(file):
            try:
                if not isinstance(record, Mapping):
                    raise BadRecord("not_a_conversation", f"the record is {type(record).__name__}, not an object")
                yield make_row(record, number)
            except BadRecord as fault:
                yield faulty_row(record, number, fault)
            number += 1


def _choose_split(rows: Dataset, source: Source) -> np.ndarray:
    column = rows.data.column("split")
    chosen = np.flatnonzero(pc.fill_null(pc.equal(column, source.split), False).to_numpy(zero_copy_only=False))
    if not len(chosen):
        there = json.dumps(sorted(str(value) for value in pc.unique(column).to_pylist() if value is not None))
        raise UserError(f"data source {source.name!r}: no record of split {source.split!r}; {source.path} has {there}")
    return chosen.astype(np.int64)
