"""Sources opened: raw files turned once into an Arrow file, prepared folders read as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llava_moe.data.auto_format import tell_format
from llava_moe.data.conversation import UNREAD_MEDIA, BadRecord, Conversation, ImageRef
from llava_moe.data.images.paths import StartFolder, find_image
from llava_moe.data.images.roots import guess_image_root
from llava_moe.data.readers import store
from llava_moe.data.readers.files import is_address
from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.reader import RawFile, Reader
from llava_moe.data.readers.row import Row
from llava_moe.data.readers.shards import is_ours, is_prepared
from llava_moe.data.readers.splits import is_read, no_such_split, settled, unread_line
from llava_moe.data.readers.tree import name_of, split_of
from llava_moe.data.records import AUTO, Entry, Records, Source, entry_of
from llava_moe.data.shard_records import ShardRecords, open_shards
from llava_moe.errors import UserError
from llava_moe.text.shell_words import named

if TYPE_CHECKING:
    from datasets import Dataset

_FIRST_BLOCK, _LARGEST_BLOCK = 16, 512


@dataclass
class ArrowRecords:
    """Records in a memory-mapped Arrow file; see ``readers/store.py``."""

    source: Source
    path: Path
    named: str | None = None
    chosen: np.ndarray | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    _rows: Dataset | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """The kept file's name (which holds the raw files' fingerprint) and the splits that are read."""
        read = [split for split in sorted(self.splits) if is_read(split, self.source.split, self.named)]
        return f"{self.path.name}:{read}:{self.source.reads}"

    @property
    def unread(self) -> str | None:
        """The line that names the splits that are not read for want of ``split=``."""
        others = {one: num for one, num in self.splits.items() if not is_read(one, self.source.split, self.named)}
        return unread_line(self.source.name, self.source.split, others)

    @property
    def image_root(self) -> str | None:
        """The source's image folder, or the folder that its paths start from."""
        folder = self.source.folder
        return self.source.images if self.source.images is not None or folder is None else StartFolder(folder)

    @property
    def num_in_files(self) -> int:
        """Records of all splits."""
        return len(self.rows)

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
        images: tuple[ImageRef, ...] = tuple(
            image["path"] if image["bytes"] is None else image["bytes"] for image in row["images"]
        )
        return entry_of(row, images, number, self.source)


def open_records(source: Source, cache: Path) -> ArrowRecords | ShardRecords:
    """Open a source: a prepared folder in place; raw files by way of an Arrow file under ``cache``, which is made once
    and keyed by their paths and content.

    Raises:
        UserError: a missing or unreadable file (with the line), an empty source, a split that is not there.
    """
    folder = prepared_folder(source)
    if folder is not None:
        try:
            prepared = open_shards(source, folder)
        except UserError as error:
            raise UserError(f"data source {source.name!r}: {error}") from error
        _refuse_empty(source, prepared)
        return prepared
    files = find_files(source)
    kind = tell_format(source, files)
    named = split_of(source.path) if [name_of(file.path) for file in files] == [name_of(source.path)] else None
    told = [kind, *FORMATS.origin(kind), *(f"{file.split} {file.label}" for file in files)]
    key = store.fingerprint([path for file in files for path in (file.path, *file.beside)], Path(cache), *told)
    path = Path(cache) / f"{store.slug(Path(files[0].path).stem)}-{key[:24]}.arrow"
    store.keep(_rows(files, FORMATS[kind]), path)
    records = ArrowRecords(source, path, named)
    _choose_split(records)
    _refuse_empty(source, records)
    return records


def _refuse_empty(source: Source, records: Records) -> None:
    if not len(records):
        raise UserError(f"data source {source.name!r}: {source.path} holds no records; check path")


def prepared_folder(source: Source) -> Path | None:
    """The folder of a source that ``data prepare`` made or has begun; None for raw files.

    Raises:
        UserError: it was made by ``data prepare``, and the format of raw files is asked for.
    """
    path = Path(source.path).expanduser()
    if not is_prepared(path):
        return None
    if source.format in (AUTO, "records"):
        return path
    # Raw files may have a manifest of their own beside them.
    if is_ours(path):
        raise UserError(f"data source {source.name!r}: {path} is prepared: leave out format={source.format}")
    return None


def check_image_root(source: Source, records: Records, num_probes: int = 32) -> None:
    """Stop before training where the image folder is plainly wrong: no image of ``num_probes`` records is there.

    Raises:
        UserError: naming the folder and one path that was looked for.
    """
    probes = np.unique(np.linspace(0, len(records) - 1, num_probes).astype(int)).tolist()
    missing: dict[str, str] = {}
    for probe in probes:
        content = records.read(probe, probe + 1)[0].content
        if isinstance(content, BadRecord) or not content.images or not isinstance(content.images[0], str):
            continue
        try:
            find_image(content.images[0], records.image_root)
            return
        except BadRecord as fault:
            missing[content.images[0]] = fault.detail
    if missing:
        is_given = records.image_root is not None and not isinstance(records.image_root, StartFolder)
        remedy = f"check images={records.image_root}" if is_given else "give their folder as images=FOLDER"
        near = (
            None if is_address(source.path) else guess_image_root([*missing], Path(source.path).parent, [source.name])
        )
        if near is not None and near.num_found and near.folder is not None:
            place = named(f"data.sources.{source.name}.images", near.folder)
            remedy = f"{remedy}: {near.num_found} of them are in {near.folder}, {place}"
        raise UserError(
            f"data source {source.name!r}: none of the {len(missing)} images looked for is there "
            f"({next(iter(missing.values()))}); {remedy}"
        )


def check_has_images(source: Source, records: Records) -> None:
    """Stop before training where a folder of images is given and none of the usable records has an image.

    A split that is held out may be of text alone where the others are not.

    Raises:
        UserError: saying how the images may have been missed.
    """
    if source.images is None or source.split not in (None, "train"):
        return
    unread, num_usable = None, 0
    start, size = 0, _FIRST_BLOCK
    while start < len(records):
        entries = records.read(start, start + size)
        start, size = start + size, min(2 * size, _LARGEST_BLOCK)
        for entry in entries:
            content = entry.content
            if isinstance(content, BadRecord):
                unread = content if unread is None and content.reason == UNREAD_MEDIA else unread
                if entry.images:
                    return
            elif content.images:
                return
            else:
                num_usable += 1
    if num_usable:
        told = "images are read from image or images" if unread is None else str(unread)
        raise UserError(
            f"data source {source.name!r}: images={source.images} is given, and none of its {len(records)} records has "
            f"an image that is read ({told}); leave images= out where the text is all there is"
        )


def find_files(source: Source) -> list[RawFile]:
    """The raw files of a source, in order; none for a prepared folder.

    Raises:
        UserError: none is there.
    """
    if prepared_folder(source) is not None:
        return []
    reader = FORMATS["records" if source.format == AUTO else source.format]
    try:
        return reader.find(source.path)
    except UserError as error:
        remedy = f"; or run llava-moe data prepare recipe={source.recipe} downloads=FOLDER" if source.recipe else ""
        raise UserError(f"data source {source.name!r}: {error}{remedy}") from error


def _rows(files: list[RawFile], reader: Reader) -> Iterator[Row]:
    number = 0
    for file in files:
        for record in reader.records(file):
            row = row_of(reader, record, number)
            if row["split"] is None and file.split is not None:
                row["split"] = file.split
            yield row
            number += 1


def _choose_split(records: ArrowRecords) -> None:
    """Choose the records of the splits that are read.

    Raises:
        UserError: there is none; the line names the splits that are there.
    """
    source, column = records.source, records.rows.data.column("split")
    if not len(column):
        return
    counts = {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}
    read = [split for split in counts if is_read(split, source.split, records.named)]
    splits: Counter[str] = Counter()
    for split, count in counts.items():
        own = split or (source.split if split in read else None)
        splits[settled(own)] += count
    records.splits = dict(splits)
    if not read:
        raise UserError(f"data source {source.name!r}: {no_such_split(source.split, source.path, splits)}")
    if len(read) < len(counts):
        is_chosen = pc.is_in(column, pa.array(read, column.type), skip_nulls=False)
        records.chosen = np.flatnonzero(is_chosen.to_numpy(zero_copy_only=False)).astype(np.int64)
