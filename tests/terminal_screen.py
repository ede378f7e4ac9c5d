"""A pseudo-terminal with a command in it, and what a person sees on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Cursor movement, erasing, colours and modes, as rich writes them; another sequence is a failure of the test.
_SEQUENCE = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|\x1b\[?\??[\d;]*$")
_IGNORED = "mhl"


class Screen:
    """Lines of a terminal that neither scrolls away nor flows text again when it is resized, as xterm does not."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self._rest = ""

    def feed(self, text: str) -> None:
        """What the command wrote."""
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
                continue
            found = _SEQUENCE.match(text, at)
            if found is None or found[3] is None:
                assert found is not None or len(text) - at < 2, f"what is {text[at : at + 20]!r}?"
                self._rest = text[at:]
                return
            self._obey(found[3], int(found[2].split(";")[0] or 0) if found[2] else 0)
            at = found.end()

    def text(self) -> list[str]:
        """The lines, without blanks at their ends."""
        return ["".join(line).rstrip() for line in self.lines]

    def _put(self, character: str) -> None:
        if character == "\n":
            self.row += 1
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character != "\a":
            if self.column >= self.columns:
                self.row, self.column = self.row + 1, 0
            self._grow()
            line = self.lines[self.row]
            line += [" "] * (self.column + 1 - len(line))
            line[self.column] = character
            self.column += 1
        self._grow()

    def _grow(self) -> None:
        while self.row >= len(self.lines):
            self.lines.append([])

    def _obey(self, letter: str, number: int) -> None:
        if letter == "A":
            self.row = max(0, self.row - max(1, number))
        elif letter == "B":
            self.row += max(1, number)
            self._grow()
        elif letter == "K":
            line = self.lines[self.row]
            del line[0 if number == 2 else self.column :]
        else:
            assert letter in _IGNORED, f"the terminal was sent CSI {letter}"


class Terminal:
    """A command that runs in a pseudo-terminal of its own, as a person's shell starts it."""

    def __init__(
        self, words: Sequence[str], columns: int, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        told = dict(os.environ if environment is None else environment) | {"TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            told.pop(name, None)
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.execvpe(sys.executable, [sys.executable, "-m", "llava_moe", *words], told)
        self.raw = ""
        self.status: int | None = None
        self.screen = Screen(columns)
        self.resize(columns)

    def resize(self, columns: int) -> None:
        """Make the window as wide, as dragging its edge does."""
        self.read(0.0)
        self.screen.columns = columns
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def press_ctrl_c(self) -> None:
        """Type the key: the terminal sends the signal to every process of the command."""
        os.write(self.descriptor, b"\x03")

    def read(self, seconds: float) -> None:
        """Show what is written in the next seconds."""
        until = time.monotonic() + seconds
        while select.select([self.descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                written = os.read(self.descriptor, 65536)
            except OSError:  # the last process of the terminal has ended
                return
            if not written:
                return
            text = written.decode(errors="replace")
            self.raw += text
            self.screen.feed(text)

    def wait_for(self, is_there: Callable[[], bool], seconds: float = 120) -> None:
        """Read until something is so.

        Raises:
            AssertionError: it is not so in time.
        """
        until = time.monotonic() + seconds
        while not is_there():
            assert time.monotonic() < until, "\n".join(self.screen.text())
            self.read(0.05)

    def wait(self, seconds: float = 120) -> int:
        """Read to the command's end; its exit status."""

        def has_ended() -> bool:
            if self.status is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.status = os.waitstatus_to_exitcode(status) if pid else None
            return self.status is not None

        self.wait_for(has_ended, seconds)
        self.read(0.2)
        os.close(self.descriptor)
        assert self.status is not None
        return self.status
