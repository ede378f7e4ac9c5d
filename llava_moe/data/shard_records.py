"""Records of a prepared folder, read in place: nothing is copied, and one record costs one small row group."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llava_moe.data.conversation import BadRecord, Conversation, ImageRef, StoredImage
from llava_moe.data.readers.row import Row
from llava_moe.data.readers.shards import Manifest, Shard, read_manifest
from llava_moe.data.readers.splits import is_read, no_such_split, settled, unread_line
from llava_moe.data.records import Entry, Source, entry_of
from llava_moe.errors import UserError
from llava_moe.files.regular_file import check_regular

MAX_OPEN_SHARDS = 64
_IMAGE = "images.list.element."
_WITHOUT_BYTES = (
    *("id", "conversations", "system", "caption", "task"),
    *(f"{_IMAGE}{name}" for name in ("path", "sha256", "width", "height")),
)
_WITH_BYTES = ("id", "conversations", "system", "caption", "task", "images")


@dataclass
class ShardRecords:
    """Records in the shards of a manifest; see ``readers/shards.py``."""

    source: Source
    folder: Path
    manifest: Manifest
    shards: tuple[Shard, ...]
    starts: np.ndarray
    numbers: np.ndarray
    _open: OrderedDict[int, tuple[pq.ParquetFile, np.ndarray]] = field(default_factory=OrderedDict, repr=False)
    _process: int = field(default_factory=os.getpid, repr=False)

    @property
    def fingerprint(self) -> str:
        """The manifest's fingerprint, the splits that are read and the text."""
        read = sorted({settled(shard.split) for shard in self.shards})
        return f"{self.manifest.fingerprint}:{read}:{self.source.reads}"

    @property
    def splits(self) -> Mapping[str, int]:
        """How many records each split has."""
        counts: Counter[str] = Counter()
        for shard in self.manifest.shards:
            counts[settled(shard.split)] += shard.num_records
        return counts

    @property
    def unread(self) -> str | None:
        """The line that names the splits that are not read for want of ``split=``."""
        others = {split: count for split, count in self.splits.items() if not is_read(split, self.source.split)}
        return unread_line(self.source.name, self.source.split, others)

    @property
    def image_root(self) -> str | None:
        """The source's image folder, else the manifest's."""
        return self.source.images if self.source.images is not None else self.manifest.images

    @property
    def num_in_files(self) -> int:
        """Records of all splits."""
        return sum(shard.num_records for shard in self.manifest.shards)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = self._shard_of(index)
        file, group_starts = self._file(shard)
        within = index - int(self.starts[shard])
        group = int(np.searchsorted(group_starts, within, side="right")) - 1
        rows = self._read(shard, file, [group], _WITH_BYTES).slice(within - int(group_starts[group]), 1)
        entry = self._entry(rows.to_pylist()[0], self.number(index))
        if isinstance(entry.content, BadRecord):
            raise entry.content
        return entry.content

    def number(self, index: int) -> int:
        """The record's number in the folder, all splits counted, from 0."""
        shard = self._shard_of(index)
        return int(self.numbers[shard]) + index - int(self.starts[shard])

    def find(self, number: int) -> int | None:
        """The index of the record with this number in the folder; None where there is none."""
        for shard in range(len(self.shards)):
            within = number - int(self.numbers[shard])
            if 0 <= within < self.shards[shard].num_records:
                return int(self.starts[shard]) + within
        return None

    def read(self, start: int, stop: int) -> list[Entry]:
        """Records ``start`` to ``stop``, good and bad, their stored images unread."""
        entries: list[Entry] = []
        at, stop = start, min(stop, len(self))
        while at < stop:
            shard = self._shard_of(at)
            file, group_starts = self._file(shard)
            first = int(self.starts[shard])
            end = min(stop, int(self.starts[shard + 1]))
            low = int(np.searchsorted(group_starts, at - first, side="right")) - 1
            high = int(np.searchsorted(group_starts, end - first, side="left"))
            table = self._read(shard, file, list(range(low, high)), _WITHOUT_BYTES)
            rows = table.slice(at - first - int(group_starts[low]), end - at).to_pylist()
            number = int(self.numbers[shard]) + at - first
            entries += [self._entry(row, number + place) for place, row in enumerate(rows)]
            at = end
        return entries

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def _file(self, shard: int) -> tuple[pq.ParquetFile, np.ndarray]:
        """The opened shard and where its row groups begin; the last few shards stay open."""
        if self._process != os.getpid():
            # A forked worker shares open files, and their positions, with the process that opened them.
            self._open, self._process = OrderedDict(), os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self.folder / self.shards[shard].file
        try:
            check_regular(path)
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise self._damaged(shard, error) from error
        metadata = file.metadata
        if metadata.num_rows != self.shards[shard].num_records:
            raise UserError(
                f"{path}: {metadata.num_rows:,} records, the manifest says {self.shards[shard].num_records:,}; run "
                "llava-moe data prepare again with restart=true"
            )
        sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._open[shard] = file, np.fromiter(accumulate(sizes, initial=0), dtype=np.int64)
        if len(self._open) > MAX_OPEN_SHARDS:
            self._open.popitem(last=False)[1][0].close()
        return self._open[shard]

    def _read(self, shard: int, file: pq.ParquetFile, groups: list[int], columns: tuple[str, ...]) -> pa.Table:
        try:
            return file.read_row_groups(groups, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(shard, error) from error

    def _damaged(self, shard: int, error: Exception) -> UserError:
        reason = str(error).splitlines()[0]
        return UserError(
            f"{self.folder / self.shards[shard].file}: not a readable shard ({reason}); copy it again, or run "
            "llava-moe data prepare again with restart=true"
        )

    def _entry(self, row: dict[str, Any], number: int) -> Entry:
        images = tuple(_image_ref(image) for image in row["images"] or ())
        # A shard of an earlier release has no system texts.
        plain: Row = {"system": None, **row, "turns": row["conversations"] or [], "fault": None, "detail": None}
        return entry_of(plain, images, number, self.source)


def open_shards(source: Source, folder: Path) -> ShardRecords:
    """The records of a prepared folder, those of the source's split where it names one.

    Raises:
        UserError: the manifest and the shards do not agree, or the split is not there.
    """
    manifest = read_manifest(folder)
    numbers = list(accumulate((shard.num_records for shard in manifest.shards), initial=0))
    chosen = [place for place, shard in enumerate(manifest.shards) if is_read(shard.split, source.split)]
    if not chosen and manifest.shards:
        there = {settled(shard.split) for shard in manifest.shards}
        raise UserError(no_such_split(source.split, folder, there))
    shards = tuple(manifest.shards[place] for place in chosen)
    starts = np.fromiter(accumulate((shard.num_records for shard in shards), initial=0), dtype=np.int64)
    return ShardRecords(source, folder, manifest, shards, starts, np.asarray([numbers[place] for place in chosen]))


def _image_ref(image: dict[str, Any]) -> ImageRef:
    if image["path"] is not None:
        return str(image["path"])
    content = image.get("bytes")
    if content is not None:
        return bytes(content)
    return StoredImage(image["sha256"], image["width"] or 0, image["height"] or 0)
