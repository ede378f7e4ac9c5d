"""How far an instrument is: a bar with the time that is left in a terminal, a line a minute in a log file."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from llava_moe.terminal.fitted_bar import FittedBar, passing

SECONDS_A_LINE = 60


class Progress:
    """The progress of one part of the work; ``with Progress(console, "gradients", total) as progress``."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self.console, self.told = console, time.monotonic()
        self.bar = FittedBar(title, total)
        self._drawn = ExitStack()

    def __enter__(self) -> Progress:
        self._drawn.enter_context(passing(self.bar, self.console))
        return self

    def __exit__(self, *error: Any) -> None:
        self._drawn.close()

    def skip(self, done: int) -> None:
        """So much was there already, and says nothing of the time left."""
        self.bar.done = done
        self.bar.restart()
        if done:
            told = f"  {self.bar.title}: going on; {done:,} of {self.bar.total:,} stand"
            self.console.print(told, highlight=False, markup=False)

    def step(self) -> None:
        """One more is done."""
        bar, now = self.bar, time.monotonic()
        bar.done += 1
        if not self.console.is_terminal and now - self.told >= SECONDS_A_LINE:
            self.told = now
            line = f"  {bar.title}: {bar.done:,} of {bar.total:,}, {bar.left()} left"
            self.console.print(line, highlight=False, markup=False)
