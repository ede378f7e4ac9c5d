"""Something else in the place of a file: another file, a pipe, a device, a folder, a link, nothing, far too much."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from random import Random

DEVICES = ("/dev/zero", "/dev/full", "/dev/null", "/dev/urandom", "/dev/stdin", "/proc/self/mem", "/proc/kmsg")
# More than a case may take, less than where allocations fail: a file that is only mapped is no fault.
LARGE = 3 << 30


def misplace(random: Random, path: Path, others: list[Path], outside: Path) -> str:
    """Put something else where ``path`` is; returns what.

    Args:
        others: files that may stand in its place.
        outside: a file that nobody gave.
    """
    kind = random.choice(("pipe", "folder", "device", "nothing", "empty", "dangling", "loop", "other", "outside"))
    if random.random() < 0.1:
        kind = random.choice(("sparse", "socket", "name"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to(random.choice(DEVICES))
    elif kind == "empty":
        path.touch()
    elif kind == "dangling":
        path.symlink_to(path.parent / "nowhere" / "at-all")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "other" and others:
        shutil.copyfile(random.choice(others), path)
    elif kind == "outside":
        path.symlink_to(outside)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(LARGE)
    elif kind == "socket":
        _bind(path)
    return kind


def _bind(path: Path) -> None:
    # A socket's address is short: it is bound by its name alone.
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name[:100])
    finally:
        os.fchdir(before)
        os.close(before)
