"""Compressed files read as if they were not, and the files that no reader takes, each with what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from llava_moe.data.readers.tables import DIALECTS, records_of_table
from llava_moe.errors import UserError

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of JSON and JSON Lines files that are read through their compression."""

MOST_TIMES = 250
"""How many times its own size a compressed file may unpack to. Records of text and base64 reach a tenth of it."""
FREE_BYTES = 256 << 20
"""What any compressed file may unpack to."""

_AS_JSONL = "save its rows as JSON Lines or Parquet in one of the formats of llava-moe"
_UNPACK = "unpack it and give the folder"
_PACKED_TABLE = "unpack it and give it again: the line on a table shows the command that makes records of it"
_SHEET = "save the sheet as CSV and give that: the line on it shows the command that makes records of it"
REMEDIES = {
    ".csv": _PACKED_TABLE,
    ".tsv": _PACKED_TABLE,
    ".xlsx": _SHEET,
    ".xls": _SHEET,
    ".zip": _UNPACK,
    ".tar": _UNPACK,
    ".tgz": _UNPACK,
    ".7z": _UNPACK,
    ".rar": _UNPACK,
    ".parquet.gz": "unpack it with gunzip: Parquet is compressed inside",
    ".arrow": "save it as Parquet: datasets.Dataset.from_file(FILE).to_parquet('train.parquet')",
    ".feather": "save it as Parquet: pyarrow.parquet.write_table(pyarrow.feather.read_table(FILE), 'train.parquet')",
    ".pkl": f"a pickle can run programs and is never opened: {_AS_JSONL}",
    ".pickle": f"a pickle can run programs and is never opened: {_AS_JSONL}",
    ".pt": f"a pickle can run programs and is never opened: {_AS_JSONL}",
    ".xml": _AS_JSONL,
    ".h5": _AS_JSONL,
    ".hdf5": _AS_JSONL,
    ".db": _AS_JSONL,
    ".sqlite": _AS_JSONL,
    ".lance": _AS_JSONL,
    ".tfrecord": _AS_JSONL,
}
"""What is not read, by its ending."""

_MAGIC = {
    b"PK\x03\x04": ("a zip archive or a spreadsheet", f"{_UNPACK}, or save the sheet as JSON Lines"),
    b"PAR1": ("Parquet", "rename it to end in .parquet"),
    b"ARROW1": ("an Arrow file", "save it as Parquet"),
    b"SQLite": ("a data base", _AS_JSONL),
    b"\x80\x02": ("a pickle", f"it can run programs and is never opened: {_AS_JSONL}"),
    b"\x80\x03": ("a pickle", f"it can run programs and is never opened: {_AS_JSONL}"),
    b"\x80\x04": ("a pickle", f"it can run programs and is never opened: {_AS_JSONL}"),
    b"\x80\x05": ("a pickle", f"it can run programs and is never opened: {_AS_JSONL}"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself with git lfs pull"),
}
_LONGEST_MAGIC = 24
_BLOCK = 1 << 18


def remedy_for(name: str) -> str | None:
    """What to say of a file that no reader takes, by its ending; None where nothing is known against it.

    Args:
        name: its path: of a table the first line is read.
    """
    lower = name.lower()
    if lower.endswith(tuple(DIALECTS)) and os.path.isfile(name):
        return f"{lower[-3:].upper()} is not read; {records_of_table(Path(name))}"
    bare = next((lower.removesuffix(end) for end in PACKED if lower.endswith(end)), lower)
    for candidate in (lower, bare):
        for ending, remedy in REMEDIES.items():
            if candidate.endswith(ending):
                return f"{ending[1:].upper()} is not read: {remedy}"
    return None


class UnpackedSize:
    """Counts what a compressed file has unpacked to.

    Args:
        name: what it is called in messages.
        packed: how many of its own bytes that took.
    """

    def __init__(self, name: str, packed: Callable[[], int]) -> None:
        self.name, self._packed, self._unpacked = name, packed, 0

    def add(self, num_bytes: int) -> None:
        """Count more of it; raises ``UserError`` where it is too much."""
        self._unpacked += num_bytes
        if self._unpacked > FREE_BYTES and self._unpacked > MOST_TIMES * self._packed():
            raise UserError(
                f"{self.name}: unpacks to more than {MOST_TIMES} times its size, as no real data do; it is damaged, or "
                "made to fill memory and disk: fetch it again"
            )


@contextmanager
def unpacked(name: str, file: BinaryIO) -> Iterator[BinaryIO]:
    """The content of a file, decompressed where it is compressed: its first bytes decide, whatever it is called.

    Raises:
        UserError: the compressed content is damaged or cut short, or is more than ``MOST_TIMES`` its compressed size
            and ``FREE_BYTES``; or the file is of a kind that no reader takes.
    """
    buffered: BinaryIO = file if hasattr(file, "peek") else io.BufferedReader(cast(io.RawIOBase, file))
    try:
        head = bytes(cast(Any, buffered).peek(_LONGEST_MAGIC)[:_LONGEST_MAGIC])
    except OSError as error:
        raise _unread(name, error) from error
    for magic, (kind, remedy) in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{name}: is {kind}, not JSON; {remedy}")
    opened = _open(head, buffered)
    if opened is not buffered:
        bounded = _Bounded(opened, UnpackedSize(name, buffered.tell))
        opened = cast(BinaryIO, io.BufferedReader(bounded, _BLOCK))
    try:
        yield opened
    except EOFError as error:
        raise UserError(f"{name}: the compressed file ends too early; it was cut short, fetch it again") from error
    except (zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise _unread(name, error) from error
        raise UserError(f"{name}: the compressed file is damaged ({error}); fetch it again") from error


def _unread(name: str, error: OSError) -> UserError:
    return UserError(f"{name}: cannot be read ({error.strerror or error}); check the data source's path")


def _open(head: bytes, file: BinaryIO) -> BinaryIO:
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast(BinaryIO, lzma.LZMAFile(file))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return cast(BinaryIO, _Zstandard(file))
    return file


class _Bounded(io.RawIOBase):
    """A stream that is counted as it is read."""

    def __init__(self, file: BinaryIO, size: UnpackedSize) -> None:
        self._file, self._size = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        self._size.add(len(block))
        buffer[: len(block)] = block
        return len(block)


class _Zstandard(io.RawIOBase):
    """A Zstandard stream; one that is cut short raises ``EOFError`` as the other kinds do."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._stream.read(len(buffer))
        except OSError as error:
            raise EOFError(str(error)) from error
        buffer[: len(block)] = block
        return len(block)
