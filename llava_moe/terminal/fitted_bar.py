"""A progress bar that fits its terminal: title, bar, count and time left stay at any width, and the rest gives way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llava_moe.text.escape_control import visible

_REFRESHES_PER_SECOND = 4
# Below this the bar says less than the numbers beside it.
_SHORTEST_BAR = 8
_LONGEST_BAR = 40
_SHORTEST_TITLE = 8
_FREE_COLUMNS = 3
# Of a longer title the end gives way to numbers.
_SHOWN_TITLE = 24


class FittedBar:
    """What a bar shows; its fields may change while it is drawn.

    Attributes:
        title: what goes on.
        done, total: how far it is; the total is None while it is not known.
        label: stands in the place of ``done/total``.
        facts: stand behind the time left where there is room, the first before the others.
        status: a second line, cut where it is too long; none where it is None.
        is_notice: the second line is a message and no number.
    """

    def __init__(self, title: str, total: int | None = None, done: int = 0, status: str | None = None) -> None:
        self.title, self.total, self.done, self.status = title, total, done, status
        self.label = ""
        self.facts: Sequence[str] = ()
        self.is_notice = False
        self.restart()

    def tell(self, done: int, total: int | None) -> None:
        """So much of so much is done."""
        self.done, self.total = done, total

    def restart(self) -> None:
        """Count the time that is left from what is done from now on."""
        self.started, self.first = time.monotonic(), self.done

    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def left(self) -> str:
        """Time to the end, by the mean since it was started; dashes where nothing is known."""
        gone = self.done - self.first
        if gone <= 0 or self.total is None:
            return "-:--"
        return clock(self.elapsed() / gone * (self.total - self.done))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Some columns stay free: a terminal writes ^C behind the cursor, and goes to a new line behind the last.
        width = max(1, options.max_width - _FREE_COLUMNS)
        count = self.label or (f"{self.done}/{self.total}" if self.total is not None else f"{self.done}")
        told = f"left {self.left()}"
        room = width - len(count) - 3
        title = Text(visible(self.title), style="bold", no_wrap=True)
        named = min(title.cell_len, _SHOWN_TITLE)
        for fact in self.facts:
            if named + _SHORTEST_BAR + len(f"{told}, {fact}") <= room:
                told += f", {fact}"
        room -= len(told)
        has_bar = room >= _SHORTEST_TITLE + _SHORTEST_BAR
        title.truncate(max(_SHORTEST_TITLE, room - _SHORTEST_BAR if has_bar else room), overflow="ellipsis")
        cells: list[Text | ProgressBar] = [title, Text(count, style="green"), Text(visible(told), style="cyan")]
        if has_bar:
            total = None if self.total is None else max(1, self.total)
            bar = min(_LONGEST_BAR, room - title.cell_len)
            cells.insert(1, ProgressBar(total=total, completed=self.done, width=bar))
        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        yield line
        if self.status is not None:
            style = "yellow" if self.is_notice else ""
            status = Text(f"  {visible(self.status)}", no_wrap=True, style=style)
            status.truncate(width, overflow="ellipsis")
            yield status


def live(bar: FittedBar, console: Console, transient: bool = True) -> Live | None:
    """What draws the bar, to be started; None where nobody watches, as in a batch system's log."""
    if console.quiet or not console.is_terminal:
        return None
    return Live(bar, console=console, refresh_per_second=_REFRESHES_PER_SECOND, transient=transient)


@contextmanager
def passing(bar: FittedBar, console: Console) -> Iterator[FittedBar]:
    """The bar, drawn while this lasts and gone behind it."""
    drawn = live(bar, console)
    if drawn is not None:
        drawn.start()
    try:
        yield bar
    finally:
        if drawn is not None:
            drawn.stop()


def clock(seconds: float) -> str:
    """``4:05``, or ``1:04:05`` for hours."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
