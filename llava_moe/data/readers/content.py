"""What a file holds, as a hash: caches answer to content, never to the time that a copy was given."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import url_to_fs

from llava_moe.data.readers.files import is_address, open_raw, unreachable
from llava_moe.errors import UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.regular_file import open_regular, read_regular
from llava_moe.text.structured_text import parse_json

BLOCK = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file that changed less than two seconds ago is hashed again next time: clocks of file systems are coarse."""

_STRONG = ("blob_id", "etag", "ETag", "last_commit", "checksum", "Content-MD5")
"""What stores of objects say of a file's content."""


def content_hash(path: str, memory: Path | None = None) -> str:
    """SHA-256 (64 hex digits) over a local file's bytes.

    Args:
        memory: folder that remembers a file's hash by its path, size, inode and times. Among these is the time of
            change, which no program can set: ``cp -p``, ``touch -r`` and ``rsync -t`` move it. None: always read.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        state = _state(path)
        note = (
            None
            if memory is None
            else memory / "contents" / f"{sha256(os.path.realpath(path).encode()).hexdigest()[:32]}.json"
        )
        known = None if note is None else _recall(note, state)
        if known is not None:
            return known
        with open_regular(path) as file:
            digest = hash_of(file)
        if note is not None and _state(path) == state and time.time_ns() - state["ctime"] > SETTLED_NS:
            _remember(note, state | {"hash": digest})
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({reason}); check the path") from error
    return digest


def hash_of(file: BinaryIO) -> str:
    """SHA-256 (64 hex digits) over what is left of an open file."""
    digest = sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def content_of(file: str, memory: Path | None = None) -> str:
    """What tells the content of a file or an address: a hash, or what an address says of its version.

    Raises:
        UserError: it cannot be read or reached.
    """
    if not is_address(file):
        return content_hash(file, memory)
    try:
        system, inside = url_to_fs(file)
        if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
            return content_hash(inside, memory)
        told = system.info(inside)
        marks = [(key, str(told[key])) for key in _STRONG if told.get(key)]
        if marks:
            return repr((told.get("size"), marks))
        with open_raw(file) as opened:  # nothing but its content tells this one's version
            return hash_of(opened)
    except UserError:
        raise
    except Exception as error:
        raise unreachable(file, error) from error


def _state(path: str) -> dict[str, int]:
    status = os.stat(path)
    return {
        "size": status.st_size,
        "inode": status.st_ino,
        "device": status.st_dev,
        "mtime": status.st_mtime_ns,
        "ctime": status.st_ctime_ns,
    }


def _recall(note: Path, state: dict[str, int]) -> str | None:
    try:
        known: Any = parse_json(read_regular(note))
        digest = known.pop("hash")
        return digest if known == state and isinstance(digest, str) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None  # not there, or damaged: the file is read


def _remember(note: Path, known: dict[str, Any]) -> None:
    """Write a note; where the cache cannot be written, the file is read again next time."""
    with suppress(OSError, UserError):
        note.parent.mkdir(parents=True, exist_ok=True)
        replace_file(note, json.dumps(known), flush=False)
