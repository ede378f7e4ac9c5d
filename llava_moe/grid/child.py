"""A cell's commands in processes of their own, one thread each; they keep the cell's lock when their starter ends."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from llava_moe.errors import UserError

NUM_THREADS = 1
_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


class Child(Protocol):
    """A command that runs."""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and end (SIGTERM)."""


class Start(Protocol):
    """Starts a command of a cell."""

    def __call__(self, words: Sequence[str], log: Path, lock: int) -> Child:
        """Start it; what it says is added to ``log``, and ``lock`` stays open in it."""


def start_command(words: Sequence[str], log: Path, lock: int) -> Child:
    """Start ``llava-moe WORDS``, or a module of the package where the first word has a dot, on one thread."""
    module = [words[0]] if "." in words[0] else ["llava_moe", words[0]]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *module, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(NUM_THREADS), "PYTHONPATH": _python_path()},
            pass_fds=(lock,),
            # Ctrl-C of a terminal reaches the one who watches, who then asks each of them once.
            start_new_session=True,
        )


def _python_path() -> str:
    """The same package as here, from whatever folder."""
    given = os.environ.get("PYTHONPATH")
    return str(_PACKAGE_FOLDER) if not given else f"{_PACKAGE_FOLDER}{os.pathsep}{given}"


class CellLock:
    """Keeps a cell to one who makes it, here or on another machine of a shared disk.

    Commands inherit it: a cell whose starter was killed stays taken until its last command has ended.

    Attributes:
        descriptor: the open file, for commands to inherit.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.descriptor = path, -1

    def take(self) -> bool:
        """Take it; False where another has it.

        Raises:
            UserError: the disk has no locks, or the folder is not writable.
        """
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror}): choose another folder with out=") from error
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.descriptor)
            self.descriptor = -1
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise UserError(
                f"{self.path} cannot be locked ({error.strerror}): choose a folder on another disk with out="
            ) from error
        return True

    def drop(self) -> None:
        """Let it go; commands that still run keep it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
