"""Commands of a grid's cells, started without loading torch again, and remembered."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.forked_commands import CommandServer, ForkedCommand


class Forked:
    """A command of a cell, forked from a process that has loaded torch."""

    def __init__(self, command: ForkedCommand) -> None:
        self.command = command

    def poll(self) -> int | None:
        return self.command.poll()

    def terminate(self) -> None:
        self.command.send_signal(signal.SIGTERM)


class Ended:
    """A command that has come to its end in this process."""

    def __init__(self, status: int) -> None:
        self.status = status

    def poll(self) -> int:
        return self.status

    def terminate(self) -> None:
        raise AssertionError("it has ended")


class Starting:
    """Starts the commands of cells, and remembers them.

    Attributes:
        failing: a part of the names of cells whose commands fail at once; "": of none.
    """

    def __init__(self, server: CommandServer) -> None:
        self.server = server
        self.commands: list[str] = []
        self.failing = ""

    def __call__(self, words: Sequence[str], log: Path, lock: int) -> Forked | Ended:
        cell = Path(words[-1].partition("=")[2]).name
        self.commands.append(f"{words[0].rpartition('.')[2]} {cell}")
        with log.open("ab") as file:
            if self.failing and self.failing in cell:
                file.write(b"llava-moe: the disk is full\n")
                return Ended(2)
            if "." not in words[0]:
                return Forked(self.server.start(words, output=file.fileno(), joined=True))
        return Ended(importlib.import_module(words[0]).main(words[1:]))
