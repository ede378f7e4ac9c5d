"""Files that are opened must be regular files: a named pipe, a device or a socket under such a name blocks forever.

What is refused is an ``OSError`` as the disk's own are, so that it is told where those are told. Links are followed.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

Given = TypeVar("Given", int, bytes)

MOST_BYTES = 512 << 20
"""Of a file that is read whole: a hollow one of any size takes no room on the disk."""
_PART = 1 << 16
_KINDS = {
    stat.S_IFIFO: "it is a named pipe, not a regular file",
    stat.S_IFCHR: "it is a device, not a regular file",
    stat.S_IFBLK: "it is a device, not a regular file",
    stat.S_IFSOCK: "it is a socket, not a regular file",
    stat.S_IFDIR: "it is a folder, not a file",
}


class _Giving(io.FileIO):
    """A file that gives its bytes or their end. What a kernel makes up, such as its log, may have none *now*."""

    def readinto(self, buffer: Buffer, /) -> int:
        return _given(super().readinto(buffer))

    def readall(self) -> bytes:
        return _given(super().readall())


def check_regular(path: str | Path) -> None:
    """Refuse what is no regular file, for a library that opens paths itself.

    Raises:
        OSError: it is none (``strerror`` says what it is), or cannot be looked at.
    """
    _refuse(os.stat(path).st_mode, path)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read its bytes; never waits for anything else.

    Raises:
        OSError: it is no regular file (``strerror`` says what it is), or cannot be opened.
    """
    # A look first, since opening alone may wake a device; without blocking, since what lies there may change.
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return io.BufferedReader(_Giving(descriptor))


def read_regular(path: str | Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file; raises as :func:`open_regular`, and where it has more bytes than it may."""
    with open_regular(path) as file:
        size, parts, read = os.fstat(file.fileno()).st_size, list[bytes](), 0
        # As much as there should be at once, then what has grown behind it.
        while size <= most_bytes and (part := file.read(max(_PART, size + 1 - read))):
            parts.append(part)
            read += len(part)
            size = max(size, read)
    if size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than the {most_bytes:,} that are read", str(path))
    return b"".join(parts)


def _given(read: Given | None) -> Given:
    if read is None:
        raise OSError(errno.EAGAIN, "it has nothing to read now, as a regular file would")
    return read


def _refuse(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, _KINDS.get(stat.S_IFMT(mode), "it is not a regular file"), str(path))
