"""How far an evaluation is: a bar with the time that is left in a terminal, a line a minute in a log file."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from llava_moe.visible_console import VisibleColumn

# Where no bar can be drawn, as in a batch system's log.
SECONDS_A_LINE = 60


class EvalProgress:
    """The progress of one benchmark. The rate and the time left count what was answered since it began."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self.began = self.told = time.monotonic()
        self.num_kept: int | None = None
        self.bar = Progress(
            VisibleColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            VisibleColumn("answers,"),
            TimeElapsedColumn(),
            VisibleColumn("gone{task.fields[rest]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(f"scoring on {name}", total=None, rest="")

    def __enter__(self) -> EvalProgress:
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    def tell(self, done: int, total: int) -> None:
        """``done`` of ``total`` questions are answered."""
        now = time.monotonic()
        if self.num_kept is None:
            self.num_kept, self.began = done, now
            if 0 < done < total:
                kept = f"{self.name}: going on; {done:,} of {total:,} answers stand"
                self.console.print(kept, highlight=False, markup=False)
        rest = self._rest(done, total, now - self.began)
        self.bar.update(self.task, completed=done, total=total, rest=rest)
        if not self.console.is_terminal and now - self.told >= SECONDS_A_LINE:
            self.told = now
            line = f"  {self.name}: {done:,} of {total:,} answers{rest}"
            self.console.print(line, highlight=False, markup=False)

    def _rest(self, done: int, total: int, seconds: float) -> str:
        new = done - (self.num_kept or 0)
        if new <= 0 or seconds <= 0:
            return ""
        rate = new / seconds
        left = round((total - done) / rate)
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        return f", {rate:.3g} a second, {clock} left"
