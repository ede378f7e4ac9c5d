"""How far an evaluation is: a bar with the time that is left in a terminal, a line a minute in a log file."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from llava_moe.terminal.fitted_bar import FittedBar, passing

# Where no bar can be drawn, as in a batch system's log.
SECONDS_A_LINE = 60


class EvalProgress:
    """The progress of one benchmark. The rate and the time left count what was answered since it began."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self.told = time.monotonic()
        self.bar = FittedBar(f"scoring on {name}")
        self.drawn = ExitStack()

    def __enter__(self) -> EvalProgress:
        self.drawn.enter_context(passing(self.bar, self.console))
        return self

    def __exit__(self, *error: Any) -> None:
        self.drawn.close()

    def tell(self, done: int, total: int) -> None:
        """``done`` of ``total`` questions are answered."""
        bar, now = self.bar, time.monotonic()
        is_first, bar.done, bar.total = bar.total is None, done, total
        if is_first:
            bar.restart()
            if 0 < done < total:
                kept = f"{self.name}: going on; {done:,} of {total:,} answers stand"
                self.console.print(kept, highlight=False, markup=False)
        rate = (done - bar.first) / max(bar.elapsed(), 1e-9)
        bar.facts = ("answers", f"{rate:.3g} a second") if rate else ("answers",)
        if not self.console.is_terminal and now - self.told >= SECONDS_A_LINE:
            self.told = now
            rest = f", {rate:.3g} a second, {bar.left()} left" if rate else ""
            line = f"  {self.name}: {done:,} of {total:,} answers{rest}"
            self.console.print(line, highlight=False, markup=False)
