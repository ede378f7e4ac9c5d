"""What a person sees while it trains: a live bar with ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llava_moe.train.log import StepRecord
from llava_moe.train.validation import in_words


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
        self.started, self.first_step = time.monotonic(), first_step
        self.last_line = self.started
        self.recent: deque[StepRecord] = deque(maxlen=20)
        self.progress: Progress | None = None
        if console.is_terminal:
            self.progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=console,
            )
            self.progress.start()
            self.task = self.progress.add_task(title, total=num_steps, completed=first_step, status="")

    def write(self, record: StepRecord) -> None:
        self.recent.append(record)
        step = record.fields["step"]
        if self.progress is not None:
            self.progress.update(self.task, completed=step, status=self._status())
        elif step == self.num_steps or time.monotonic() - self.last_line > 10:
            self.last_line = time.monotonic()
            done = max(1, step - self.first_step)
            left = (self.last_line - self.started) / done * (self.num_steps - step)
            self.console.print(
                f"{self.title} {step}/{self.num_steps} {self._status()} left {_clock(left)}", highlight=False
            )

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        text = f"{self.title} {step}/{self.num_steps} {in_words(scores)}"
        self.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()

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
        return f"loss {total[0] / max(1, total[1]):.3f} ({by_domain}) {speed:,.0f} tok/s"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
