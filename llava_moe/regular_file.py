"""Files that are opened must be regular files: a named pipe, a device or a socket under such a name blocks forever.

What is refused is an ``OSError`` as the disk's own are, so that it is told where those are told. Links are followed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 512 << 20
"""Of a file that is read whole: a hollow one of any size takes no room on the disk."""
_KINDS = {
    stat.S_IFIFO: "it is a named pipe, not a regular file",
    stat.S_IFCHR: "it is a device, not a regular file",
    stat.S_IFBLK: "it is a device, not a regular file",
    stat.S_IFSOCK: "it is a socket, not a regular file",
    stat.S_IFDIR: "it is a folder, not a file",
}


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
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file; raises as :func:`open_regular`, and where it has more bytes than it may."""
    with open_regular(path) as file:
        content = b"" if os.fstat(file.fileno()).st_size > most_bytes else file.read(most_bytes + 1)
        if content is None:  # what a kernel makes up while it is read, such as its log
            raise OSError(errno.EAGAIN, "it has nothing to read now, as a regular file would", str(path))
        size = max(os.fstat(file.fileno()).st_size, len(content))
    if size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than the {most_bytes:,} that are read", str(path))
    return content


def _refuse(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, _KINDS.get(stat.S_IFMT(mode), "it is not a regular file"), str(path))
