"""Where commands print: standard output, standard error for what passes by, and the commands to type next."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from llava_moe.terminal.console import VisibleConsole


def open_console() -> Console:
    """Standard output; characters that its encoding lacks become question marks rather than an error."""
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    return _PipedConsole(highlight=False)


class _PipedConsole(VisibleConsole):
    """A console whose reader may leave early, ``head`` say, which is no failure of ours."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def open_progress() -> Console:
    """Standard error for what passes by while one waits; silent where nobody watches."""
    console = VisibleConsole(stderr=True)
    console.quiet = not console.file.isatty()
    return console


def say_notes(console: Console, notes: Sequence[str]) -> None:
    """Print what the user should know, a line each, never folded."""
    for note in notes:
        console.print(note, style="yellow", soft_wrap=True, highlight=False, markup=False)


def say_next(console: Console, commands: Sequence[str]) -> None:
    """Print the commands, if there are any, one a line, never folded."""
    if not commands:
        return
    console.print("\nNext:", highlight=False, markup=False)
    for command in commands:
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)
