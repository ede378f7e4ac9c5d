"""A file lock that is waited for, and says for whom once the wait is felt."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_SECONDS_UNSAID = 2.0


@contextmanager
def waited_lock(place: Path) -> Iterator[None]:
    """Hold the lock of ``place``, a file or folder that one process writes and others wait for.

    Raises:
        OSError: the lock's file cannot be made.
    """
    path = f"{place}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_SECONDS_UNSAID)
    except Timeout:
        holder = _holder(path)
        by = "another process" if holder is None else f"process {holder}"
        sys.stderr.write(f"llava-moe: waiting for {by}, which is writing {place!s:.500}\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _holder(path: str) -> int | None:
    """The process that holds a lock on the file, where the system tells."""
    try:
        inode = os.stat(path).st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in locks:
        # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF; a line of one who waits has an arrow in it.
        words = line.split()
        if "->" not in words and words[5].rpartition(":")[2] == str(inode):
            return int(words[4]) if int(words[4]) > 0 else None
    return None
