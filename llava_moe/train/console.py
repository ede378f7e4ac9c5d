"""What a person sees while it trains: a live bar with ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping

from rich.console import Console

from llava_moe.terminal.fitted_bar import FittedBar, clock, live
from llava_moe.text.escape_control import visible
from llava_moe.train.log import StepRecord
from llava_moe.train.validation import in_words

_SECONDS_BETWEEN_LINES = 10


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
        self.bar = FittedBar(title, num_steps, first_step, status="")
        self.last_line = time.monotonic()
        self.recent: deque[StepRecord] = deque(maxlen=20)
        self.live = live(self.bar, console, transient=False)
        if self.live is not None:
            self.live.start()

    def write(self, record: StepRecord) -> None:
        """Show a step: on a terminal the bar moves, elsewhere a line comes at most every ten seconds, and for the last.

        Loss is the mean over the supervised tokens of the last 20 records in nats, of all and by domain; speed is
        their tokens a second; the time left follows from the mean since the start.
        """
        bar = self.bar
        self.recent.append(record)
        bar.done, bar.facts = record.fields["step"], (f"{clock(bar.elapsed())} gone",)
        status = self._status()
        if not bar.is_notice:
            bar.status = status
        now = time.monotonic()
        if self.live is None and (bar.done == bar.total or now - self.last_line > _SECONDS_BETWEEN_LINES):
            self.last_line = now
            told = f"{bar.title} {bar.done}/{bar.total} {status} left {bar.left()}"
            self.console.print(told, highlight=False, markup=False, soft_wrap=True)

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Print the scores of a validation after ``step`` in a line of their own."""
        text = f"{self.bar.title} {step}/{self.bar.total} {in_words(scores)}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def say_stopping(self, text: str) -> None:
        """Tell that a stop was heard; called inside a signal handler, where nothing may be printed twice over."""
        self.bar.status, self.bar.is_notice = text, True
        if self.live is None and not self.console.quiet:
            os.write(2, f"llava-moe: {visible(text)}\n".encode())

    def close(self) -> None:
        """Let the bar stand as it was last, with its numbers in the place of a message."""
        if self.live is not None:
            if self.recent:
                self.bar.status, self.bar.is_notice = self._status(), False
            self.live.stop()

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
