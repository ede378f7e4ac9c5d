"""Rows in an Arrow file that is mapped into memory: millions of records cost no Python objects."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from llava_moe.data.readers.content import content_of
from llava_moe.data.readers.files import is_address
from llava_moe.data.readers.row import Row
from llava_moe.data.readers.waited_lock import waited_lock
from llava_moe.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

VERSION = 2
"""Raised whenever rows of the same file would come out otherwise."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(pa.struct([("path", pa.string()), ("bytes", pa.large_binary())]))),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string()), ("is_supervised", pa.bool_())]))),
        ("system", pa.string()),
        ("caption", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("fault", pa.string()),
        ("detail", pa.string()),
    ]
)

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""How a stream of Arrow batches ends."""
_ROWS_A_BATCH = 1000
_BYTES_A_BATCH = 64 << 20


def fingerprint(files: Iterable[str], cache: Path, *facts: str) -> str:
    """SHA-256 over what each file holds, and over whatever else decides the rows.

    Args:
        cache: folder that remembers the hashes of files that have not changed since.

    Raises:
        UserError: a file cannot be read.
    """
    digest = sha256(repr((VERSION, facts)).encode())
    for file in files:
        name = file if is_address(file) else os.path.realpath(file)
        digest.update(repr((name, content_of(file, cache))).encode())
    return digest.hexdigest()


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60] or "data"


def keep(rows: Iterable[Row], path: Path) -> Path:
    """Write rows to ``path`` unless it is there whole. Other processes wait; a file appears whole or not at all.

    Raises:
        UserError: the cache folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with waited_lock(path):
            if not is_whole(path):
                _write(rows, path)
    except OSError as error:
        raise UserError(
            f"cache {path.parent}: cannot be written ({error.strerror}); set LLAVA_MOE_CACHE to another folder"
        ) from error
    return path


def is_whole(path: Path) -> bool:
    """Whether a kept file is there to its end: it ends with Arrow's own mark, which a cut one lacks."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:
                return False
        with pa.memory_map(str(path)) as kept:
            return pa.ipc.open_stream(kept).schema.equals(SCHEMA)
    except (OSError, pa.ArrowException):
        return False


def map_rows(path: Path) -> Dataset:
    """The rows of a kept file, memory-mapped; slices come as Arrow tables."""
    from datasets import Dataset  # loads pandas too, which finding files does without

    return Dataset.from_file(str(path)).with_format("arrow")


def _write(rows: Iterable[Row], path: Path) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            pending: list[Row] = []
            pending_bytes = 0
            for row in rows:
                pending.append(row)
                pending_bytes += sum(len(image["bytes"] or b"") for image in row["images"])
                if len(pending) >= _ROWS_A_BATCH or pending_bytes >= _BYTES_A_BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=SCHEMA))
                    pending, pending_bytes = [], 0
            writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=SCHEMA))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
