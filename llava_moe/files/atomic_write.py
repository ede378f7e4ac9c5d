"""Small files written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from llava_moe.errors import UserError


def replace_file(path: Path, content: str | bytes) -> None:
    """Write beside ``path``, flush to disk, then rename: a reader sees the old content or the new one, never a part.

    Raises:
        UserError: a folder lies in its place.
        OSError: anything else, such as a full disk; ``path`` is as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, IsADirectoryError):
            raise UserError(
                f"cannot write {path}: a folder lies there; move it away and run the same command again"
            ) from error
        raise


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
