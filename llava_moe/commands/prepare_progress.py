"""How far a preparation is: a bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llava_moe.visible_console import VisibleColumn

# Where no bar can be drawn, as in a batch system's log.
SECONDS_A_LINE = 60


class PrepareProgress:
    """The progress of one preparation: bytes of raw files, with the records read and the time that is left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.num_records = self.num_bytes = 0
        self.told = time.monotonic()
        self.task: TaskID | None = None
        self.bar = Progress(
            VisibleColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            VisibleColumn("{task.fields[records]} records,"),
            TimeElapsedColumn(),
            VisibleColumn("gone,"),
            TimeRemainingColumn(),
            VisibleColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> PrepareProgress:
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    def begin(self, recipe: str, num_bytes: int | None, num_made: int) -> None:
        """See ``prepare.run.Progress``."""
        if num_made:
            self.console.print(f"{recipe}: going on; {num_made} shards stand", highlight=False, markup=False)
        self.task = self.bar.add_task(f"preparing {recipe}", total=num_bytes, records="0")

    def advance(self, num_bytes: int, num_records: int) -> None:
        """See ``prepare.run.Progress``."""
        assert self.task is not None
        self.num_records += num_records
        self.num_bytes += num_bytes
        self.bar.update(self.task, advance=num_bytes, records=f"{self.num_records:,}")
        if not self.console.is_terminal and time.monotonic() - self.told > SECONDS_A_LINE:
            self.told = time.monotonic()
            what = f"  {self.num_records:,} records, {self.num_bytes / 1e9:.2f} GB read"
            self.console.print(what, highlight=False, markup=False)
