"""Small files written whole or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from llava_moe.errors import UserError

_BESIDE = re.compile(r"\..+\.\d+\.tmp")


def replace_file(path: Path, content: str | bytes, flush: bool = True) -> None:
    """Write beside ``path``, flush to disk, then rename: a reader sees the old content or the new one, never a part.

    Args:
        flush: False for what may be lost with the machine's power, such as a note of a cache.

    Raises:
        UserError: a folder lies in its place.
        OSError: anything else, such as a full disk; ``path`` is as it was.
    """
    written = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(written)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, IsADirectoryError):
            raise UserError(
                f"cannot write {path}: a folder lies there; move it away and run the same command again"
            ) from error
        raise


def remove_halves(folder: Path) -> None:
    """Remove what :func:`replace_file` left in a folder where it was killed; nobody else may write there now."""
    for entry in folder.glob(".*.tmp"):
        if _BESIDE.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """:func:`replace_file`, and the folder that it lies in, for a file that only this command writes.

    Raises:
        UserError: a folder lies in its place, the disk is full, or the folder is not writable; ``path`` is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line for a write that failed."""
    return UserError(f"cannot write {path}: {error.strerror}; free space or choose a writable folder, then run again")
