"""Runs of a grid as a command makes them: a bar, a line for each that ends, and a command of its own for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from llava_moe.errors import StoppedBySignalError
from llava_moe.grid.card import Card
from llava_moe.grid.cell import Cell, Grid
from llava_moe.grid.runner import Failure, Outcome, Runner, Watcher
from llava_moe.runs.console import open_progress
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.text.shell_words import shell

_GO_ON = "what is made stands: run the same command again to go on"


def make_runs(title: str, grid: Grid, folder: Path, at_once: int, console: Console) -> Outcome:
    """Make what is not there of a grid; what becomes of each run is told as it ends.

    Raises:
        UserError: as :meth:`llava_moe.grid.runner.Runner.run`.
        StoppedBySignalError: a signal asked for a stop; what is made stands.
    """
    bar = FittedBar(title, len(grid.cells))
    with StopSignals(lambda: _GO_ON) as signals, passing(bar, open_progress()), signals.deferred():
        watcher = _Telling(bar, console, grid, folder)
        outcome = Runner(grid, folder, at_once, lambda: signals.asked is not None, watcher).run()
    if outcome.is_stopped:
        told = f"stopped with {len(outcome.found) + len(outcome.made)} of {len(grid.cells)} runs there; {_GO_ON}"
        raise StoppedBySignalError(told, signals.status)
    return outcome


class _Telling(Watcher):
    """Says what becomes of the cells: a bar, and a line for each that ends."""

    def __init__(self, bar: FittedBar, console: Console, grid: Grid, folder: Path) -> None:
        self.bar, self.console, self.grid, self.folder = bar, console, grid, folder

    def begun(self, num_found: int, num_cells: int) -> None:
        say_line(self.console, f"{num_cells} runs in {self.folder}, {num_found} of them there")
        self.bar.tell(num_found, num_cells)
        self.bar.restart()

    def running(self, cells: Mapping[str, str]) -> None:
        self.bar.status = ", ".join(f"{name}: {standing}" for name, standing in cells.items()) or None

    def ended(self, cell: Cell, card: Card) -> None:
        say_line(self.console, f"{cell.name}: {card.steps:,} steps, {card.seconds:.0f} s")
        self.bar.tell(self.bar.done + 1, len(self.grid.cells))

    def failed(self, cell: Cell, failure: Failure) -> None:
        said = failure.last_line.removeprefix("llava-moe: ")
        say_line(
            self.console, f"{cell.name} failed (status {failure.status}): {said} ({failure.log} has the whole)", "red"
        )


def say_line(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is, never folded."""
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def say_failures(outcome: Outcome, console: Console) -> bool:
    """Tell what was not run because of what failed, and what to do; whether anything failed."""
    for name, needed in outcome.not_run.items():
        say_line(console, f"{name} was not run: it needs {needed}")
    if outcome.failed:
        console.print(f"{len(outcome.failed)} runs failed: the same command tries them again", highlight=False)
    return bool(outcome.failed)


def command_of(words: Sequence[str], cell: Cell) -> str:
    """The command that makes one cell; a comment names those that must be there before.

    Args:
        words: of the command that makes the whole grid, its name first.
    """
    line = shell("llava-moe", *words, f"only={cell.name}")
    return f"{line}   # after {', '.join(cell.needs)}" if cell.needs else line
