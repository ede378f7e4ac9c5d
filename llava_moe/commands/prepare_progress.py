"""How far a preparation is: a bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from llava_moe.terminal.fitted_bar import FittedBar, passing

# Where no bar can be drawn, as in a batch system's log.
SECONDS_A_LINE = 60


class PrepareProgress:
    """The progress of one preparation: bytes of raw files, with the records read and the time that is left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.num_records = 0
        self.told = time.monotonic()
        self.bar = FittedBar("preparing")
        self.drawn = ExitStack()

    def __enter__(self) -> PrepareProgress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.drawn.close()

    def begin(self, recipe: str, num_bytes: int | None, num_made: int) -> None:
        """See ``prepare.run.Progress``."""
        if num_made:
            self.console.print(f"{recipe}: going on; {num_made} shards stand", highlight=False, markup=False)
        self.bar.title, self.bar.total, self.bar.label = f"preparing {recipe}", num_bytes, "0%" if num_bytes else "0"
        self.bar.restart()
        self.drawn.enter_context(passing(self.bar, self.console))

    def advance(self, num_bytes: int, num_records: int) -> None:
        """See ``prepare.run.Progress``."""
        self.num_records += num_records
        bar = self.bar
        bar.done += num_bytes
        gigabytes = f"{bar.done / 1e9:.2f} GB"
        bar.label = f"{100 * bar.done // bar.total}%" if bar.total else gigabytes
        bar.facts = (f"{self.num_records:,} records", f"{gigabytes} read")
        if not self.console.is_terminal and time.monotonic() - self.told > SECONDS_A_LINE:
            self.told = time.monotonic()
            what = f"  {self.num_records:,} records, {gigabytes} read"
            self.console.print(what, highlight=False, markup=False)
