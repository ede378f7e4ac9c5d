"""What an attempt does to the world outside, by Python's audit events. What it may not do is told and kept from it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Event -> places of the paths among its arguments, and of the folder descriptor that they start from.
CHANGES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "os.mkdir": ((0,), (2,)),
    "os.rename": ((0, 1), (2, 3)),
    "os.remove": ((0,), (1,)),
    "os.rmdir": ((0,), (1,)),
    "os.symlink": ((1,), (2,)),
    "os.link": ((1,), (3,)),
    "os.truncate": ((0,), ()),
    "os.chmod": ((0,), (2,)),
    "os.chown": ((0,), (3,)),
}
PROGRAMS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.spawn", "pty.spawn"}
# What the package asks of the machine, and says so.
KNOWN_PROGRAMS = {"git"}
SOCKETS = {"socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ALWAYS_WRITABLE = ("/dev/null", "/dev/tty", "/dev/shm", "/proc/self")


def watch(to: int, may_write: Iterable[Path], may_not_read: Iterable[Path]) -> None:
    """From now on, write a line of JSON to the file descriptor ``to`` for each forbidden act, and refuse it.

    There is no way back: this is for a process that ends with its attempt.
    """
    writable = (*map(_real, may_write), *ALWAYS_WRITABLE)
    unreadable = tuple(map(_real, may_not_read))

    def refuse(kind: str, what: str) -> None:
        os.write(to, json.dumps([kind, what[:500]]).encode() + b"\n")
        raise PermissionError(13, f"the fuzzer keeps it from a {kind}", what[:500])

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike):
                if flags & WRITING:
                    if not _is_below(_real(path), writable):
                        refuse("outside write", os.fsdecode(path))
                elif unreadable and _is_below(_real(path), unreadable):
                    refuse("outside read", os.fsdecode(path))
        elif event in CHANGES:
            _check_change(event, arguments, writable, refuse)
        elif event in PROGRAMS:
            program = arguments[0] if arguments else ""
            if os.path.basename(os.fsdecode(program)) not in KNOWN_PROGRAMS:
                refuse("program", f"{event} {arguments[:2]!r}")
        elif event in SOCKETS:
            refuse("socket", f"{event} {arguments[1:]!r}")

    sys.addaudithook(check)


def _check_change(
    event: str, arguments: tuple[Any, ...], writable: tuple[str, ...], refuse: Callable[[str, str], None]
) -> None:
    places, descriptors = CHANGES[event]
    for place, path in ((place, arguments[place]) for place in places):
        # Nothing is made where something stands already: who asks for it is told so.
        if isinstance(path, int) or (event == "os.mkdir" and os.path.lexists(path)):
            continue
        # The last part of a path is what is made, moved or removed: a link there is not followed.
        start = arguments[descriptors[places.index(place)]] if descriptors else -1
        parent = os.path.dirname(os.fsdecode(path)) or "."
        if isinstance(start, int) and start >= 0 and not os.path.isabs(parent):
            parent = os.path.join(f"/proc/self/fd/{start}", parent)
        if not _is_below(os.path.join(os.path.realpath(parent), os.path.basename(os.fsdecode(path))), writable):
            refuse("outside write", f"{event} {os.fsdecode(path)}")


def _real(path: str | bytes | os.PathLike[str]) -> str:
    return os.path.realpath(os.fsdecode(path))


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)
