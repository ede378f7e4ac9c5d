"""Raw records in file order, cut into chunks that worker processes make shards of.

Where chunks end depends on the raw files alone, so any number of processes writes the same shards.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llava_moe.data.readers.files import is_address
from llava_moe.data.readers.reader import RawFile, Reader
from llava_moe.datatools.prepare.subsample import Drawing
from llava_moe.errors import UserError

ROWS_A_CHUNK = 16_384
BYTES_A_CHUNK = 64 << 20
"""A chunk ends with the record that brings it to so many records or pickled bytes."""


@dataclass(frozen=True)
class PartFile:
    """A raw file with what is known of it before it is read.

    Attributes:
        raw: the file.
        name: as the manifest and ``rejected.jsonl`` call it.
        split: of its records.
        part: number of the recipe's part that it belongs to.
        prefix: what its image paths get in front, so that they start from the manifest's image folder.
        num_bytes: its size; None where an address does not tell.
        changed: a word that changes when the file does.
    """

    raw: RawFile
    name: str
    split: str
    part: int
    prefix: str
    num_bytes: int | None
    changed: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one raw file.

    Attributes:
        number: of the chunk, over all files.
        file: name of the raw file.
        split, prefix: see :class:`PartFile`; label: of the raw file.
        offset: raw records of the split in the files before this one.
        records: each as the pickle of (number in its file, raw record): half the memory of the objects.
    """

    number: int
    file: str
    split: str
    prefix: str
    label: str | None
    offset: int
    records: tuple[bytes, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all pickles."""
        return sum(len(record) for record in self.records)


@dataclass(frozen=True)
class FileEnd:
    """A raw file was read to its end."""

    file: int
    num_records: int
    num_chunks: int


def cut_file(
    reader: Reader,
    file: PartFile,
    file_number: int,
    first_chunk: int,
    offset: int,
    drawing: Drawing | None,
    advance: Callable[[int, int], None],
) -> Iterator[Chunk | FileEnd]:
    """The chunks of a raw file, then its end.

    Args:
        file_number: of the file.
        first_chunk: number of its first chunk.
        drawing: of the part, where not all records are taken.
        advance: called with (bytes, records) read since it was called last; bytes as they are pickled.
    """
    records: list[bytes] = []
    num_bytes = seen_bytes = num_chunks = number = seen = 0

    def close() -> Chunk:
        place = first_chunk + num_chunks
        chunk = Chunk(place, file.name, file.split, file.prefix, file.raw.label, offset, tuple(records))
        records.clear()
        return chunk

    for number, record in enumerate(_told_by_name(reader.records(file.raw), file), 1):
        if drawing is None or drawing.keep(record):
            blob = pickle.dumps((number - 1, record), pickle.HIGHEST_PROTOCOL)
            records.append(blob)
            num_bytes += len(blob)
            seen_bytes += len(blob)
        if number - seen >= 256 or seen_bytes >= 1 << 20:
            advance(seen_bytes, number - seen)
            seen, seen_bytes = number, 0
        if len(records) >= ROWS_A_CHUNK or num_bytes >= BYTES_A_CHUNK:
            yield close()
            num_chunks, num_bytes = num_chunks + 1, 0
    if records:
        yield close()
        num_chunks += 1
    advance(seen_bytes, number - seen)
    yield FileEnd(file_number, number, num_chunks)


def _told_by_name(records: Iterator[Any], file: PartFile) -> Iterator[Any]:
    """The records; where reading breaks off, a line that says at which one."""
    number = 0
    try:
        for record in records:
            number += 1
            yield record
    except UserError:
        raise
    except Exception as error:
        # Behind an address stands any of fsspec's backends, each with a network library's own exceptions.
        if not isinstance(error, OSError) and not is_address(file.raw.path):
            raise
        raise UserError(
            f"{file.name}: reading broke off behind record {number} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); run the same command again to go on"
        ) from error
