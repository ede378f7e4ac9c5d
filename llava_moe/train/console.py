"""What a person sees while it trains: a live bar with ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llava_moe.train.log import StepRecord
from llava_moe.train.validation import in_words

_SECONDS_BETWEEN_LINES = 10
_REFRESHES_PER_SECOND = 4
# Below this the bar says less than the numbers beside it.
_SHORTEST_BAR = 8
_LONGEST_BAR = 40
_SHORTEST_TITLE = 8


class TrainingConsole:
    """Shows step, loss by domain, speed and time left.

    Args:
        console: where to write.
        title: name of the stage.
        num_steps: steps of the whole run.
        first_step: steps done before.
    """

    def __init__(self, console: Console, title: str, num_steps: int, first_step: int) -> None:
        self.console = console
        self.title = title
        self.num_steps = num_steps
        self.step = first_step
        self.started, self.first_step = time.monotonic(), first_step
        self.last_line = self.started
        self.recent: deque[StepRecord] = deque(maxlen=20)
        self.status = ""
        self.notice = ""
        self.live: Live | None = None
        if console.is_terminal and not console.quiet:
            self.live = Live(_Bar(self), console=console, refresh_per_second=_REFRESHES_PER_SECOND)
            self.live.start()

    def write(self, record: StepRecord) -> None:
        self.recent.append(record)
        self.step = record.fields["step"]
        self.status = self._status()
        now = time.monotonic()
        if self.live is None and (self.step == self.num_steps or now - self.last_line > _SECONDS_BETWEEN_LINES):
            self.last_line = now
            told = f"{self.title} {self.step}/{self.num_steps} {self.status} left {self.left()}"
            self.console.print(told, highlight=False, markup=False, soft_wrap=True)

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        text = f"{self.title} {step}/{self.num_steps} {in_words(scores)}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def say_stopping(self, text: str) -> None:
        """Tell that a stop was heard; called inside a signal handler, where nothing may be printed twice over."""
        self.notice = text
        if self.live is None and not self.console.quiet:
            os.write(2, f"llava-moe: {text}\n".encode())

    def close(self) -> None:
        if self.live is not None:
            self.notice = ""
            self.live.stop()

    def elapsed(self) -> str:
        """Time since the bar began."""
        return _clock(time.monotonic() - self.started)

    def left(self) -> str:
        """Time to the last step, by the mean of those since the bar began; dashes before the first."""
        done = self.step - self.first_step
        if not done:
            return "-:--"
        return _clock((time.monotonic() - self.started) / done * (self.num_steps - self.step))

    def _status(self) -> str:
        sums: dict[str, list[float]] = {}
        for record in self.recent:
            for name, values in record.fields["domains"].items():
                pair = sums.setdefault(name, [0.0, 0.0])
                pair[0] += values["loss"] * values["supervised_tokens"]
                pair[1] += values["supervised_tokens"]
        total = [sum(pair[0] for pair in sums.values()), sum(pair[1] for pair in sums.values())]
        by_domain = " ".join(f"{name} {pair[0] / max(1, pair[1]):.3f}" for name, pair in sums.items())
        seconds = sum(record.fields["seconds"] for record in self.recent)
        speed = sum(record.fields["tokens"] for record in self.recent) / seconds
        return f"loss {total[0] / max(1, total[1]):.3f} {speed:,.0f} tok/s ({by_domain})"


class _Bar:
    """Two lines at any width: title, bar, step and time left; then losses and speed, cut where they are too long."""

    def __init__(self, shown: TrainingConsole) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.shown
        # The last column stays free: some terminals begin a new line once it is written.
        width = max(1, options.max_width - 1)
        steps, left = f"{shown.step}/{shown.num_steps}", f"left {shown.left()}"
        clock = f"{shown.elapsed()}, {left}"
        room = width - len(steps) - 3
        if room - len(clock) < _SHORTEST_TITLE + _SHORTEST_BAR:
            clock = left
        room -= len(clock)
        title = Text(shown.title, style="bold", no_wrap=True)
        title.truncate(max(_SHORTEST_TITLE, room - _LONGEST_BAR // 2), overflow="ellipsis")
        bar = min(_LONGEST_BAR, room - title.cell_len)
        cells: list[Text | ProgressBar] = [title, Text(steps, style="green"), Text(clock, style="cyan")]
        if bar >= _SHORTEST_BAR:
            cells.insert(1, ProgressBar(total=max(1, shown.num_steps), completed=shown.step, width=bar))
        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        yield line
        status = Text(f"  {shown.notice or shown.status}", no_wrap=True, style="yellow" if shown.notice else "")
        status.truncate(width, overflow="ellipsis")
        yield status


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
