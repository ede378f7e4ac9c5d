"""``llava-moe reproduce``: a figure of a paper from runs of our own; those that are there are not made again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llava_moe.commands.console import open_console, open_progress, say_next
from llava_moe.commands.stop_signals import StopSignals
from llava_moe.errors import StoppedBySignalError
from llava_moe.fitted_bar import FittedBar, passing
from llava_moe.grid.card import Card
from llava_moe.grid.cell import Cell, Grid
from llava_moe.grid.runner import Failure, Outcome, Runner, Watcher
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.index import Entry, entries, find, module_of
from llava_moe.reproduce.page import write_page
from llava_moe.reproduce.results import Results
from llava_moe.reproduce.setup import Setup, read_setup
from llava_moe.shell_words import named, shell

FOLDER = Path("runs/reproduce")
_GO_ON = "what is made stands: run the same command again to go on"


def list_figures() -> int:
    """Print every figure and table of the papers: how it is drawn, or why it is not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("paper", "figure", "what it shows", "drawn"):
        table.add_column(heading, overflow="fold")
    for entry in entries().values():
        table.add_row(entry.paper, entry.number, entry.title, "yes" if entry.is_drawn else f"no: {entry.reason}")
    console = open_console()
    console.print(table)
    first = next(entry for entry in entries().values() if entry.is_drawn)
    say_next(console, [f"llava-moe reproduce paper={first.paper} figure={first.number}"])
    return 0


def reproduce(plain: Mapping[str, Any], typed: Sequence[str]) -> int:
    """Make what is not there of a figure's grid, and its page; 1 where a run failed."""
    entry, setup, grid = open_figure(plain)
    folder = Path(plain["out"]) if plain["out"] else FOLDER / f"{entry.paper}-{entry.figure}-{setup.scale}"
    cells = Path(plain["cells"]) if plain["cells"] else folder / "cells"
    console = open_console()
    if plain["commands"]:
        for cell in grid.cells:
            console.print(_alone(entry, plain, typed, cell), soft_wrap=True, highlight=False, markup=False)
        return 0
    wanted = grid if plain["only"] is None else grid.only([plain["only"]])
    bar = FittedBar(f"{entry.paper} {entry.figure}", len(wanted.cells))
    with StopSignals(lambda: _GO_ON) as signals, passing(bar, open_progress()), signals.deferred():
        watcher = _Telling(bar, console, wanted, cells)
        outcome = Runner(wanted, cells, plain["at_once"], lambda: signals.asked is not None, watcher).run()
    if outcome.is_stopped:
        told = f"stopped with {len(outcome.found) + len(outcome.made)} of {len(wanted.cells)} runs there; {_GO_ON}"
        raise StoppedBySignalError(told, signals.status)
    results = Results(grid, cells)
    written = write_page(entry, setup, results, folder, shell("llava-moe", "reproduce", *_without(typed, "only")))
    for sentence in written.sentences:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(f"page: {written.page}", soft_wrap=True, highlight=False, markup=False)
    return _end(outcome, results, entry, console)


def open_figure(plain: Mapping[str, Any]) -> tuple[Entry, Setup, Grid]:
    """The figure that the settings name, at its scale and seeds, and all of its cells.

    Raises:
        UserError: there is no such figure, it is not drawn, or its yaml is damaged.
    """
    entry = find(plain["paper"], str(plain["figure"]))
    setup = read_setup(entry.paper, entry.figure, plain["size"])
    if plain["seeds"] is not None:
        setup = replace(setup, seeds=tuple(plain["seeds"]))
    if plain["more"]:
        setup = replace(setup, both=(*setup.both, *shlex.split(plain["more"])))
    build = Build(setup)
    module_of(entry.paper, entry.figure).cells(build)
    return entry, setup, build.grid()


class _Telling(Watcher):
    """Says what becomes of the cells: a bar, and a line for each that ends."""

    def __init__(self, bar: FittedBar, console: Console, grid: Grid, folder: Path) -> None:
        self.bar, self.console, self.grid, self.folder = bar, console, grid, folder

    def begun(self, num_found: int, num_cells: int) -> None:
        self._say(f"{num_cells} runs in {self.folder}, {num_found} of them there")
        self.bar.tell(num_found, num_cells)
        self.bar.restart()

    def running(self, cells: Mapping[str, str]) -> None:
        self.bar.status = ", ".join(f"{name}: {standing}" for name, standing in cells.items()) or None

    def ended(self, cell: Cell, card: Card) -> None:
        self._say(f"{cell.name}: {card.steps:,} steps, {card.seconds:.0f} s")
        self.bar.tell(self.bar.done + 1, len(self.grid.cells))

    def failed(self, cell: Cell, failure: Failure) -> None:
        said = failure.last_line.removeprefix("llava-moe: ")
        self._say(f"{cell.name} failed (status {failure.status}): {said} ({failure.log} has the whole)", "red")

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def _end(outcome: Outcome, results: Results, entry: Entry, console: Console) -> int:
    for name, needed in outcome.not_run.items():
        console.print(f"{name} was not run: it needs {needed}", soft_wrap=True, highlight=False, markup=False)
    if not outcome.failed:
        roots = [results.folder / cell.name for cell in results.cells if cell.labels["model"] != "stage 1"]
        say_next(console, [f"llava-moe chat {named('run', root)}" for root in roots[-1:]])
        return 0
    console.print(f"{len(outcome.failed)} runs failed: the same command tries them again", highlight=False)
    return 1


def _alone(entry: Entry, plain: Mapping[str, Any], typed: Sequence[str], cell: Cell) -> str:
    """The command that makes one cell; a comment names those that must be there before."""
    words = [word for word in _without(typed, "commands", "at_once", "only") if word]
    line = shell("llava-moe", "reproduce", *words, f"only={cell.name}")
    return f"{line}   # after {', '.join(cell.needs)}" if cell.needs else line


def _without(typed: Sequence[str], *keys: str) -> list[str]:
    return [word for word in typed if word.partition("=")[0].lstrip("+") not in keys and not word.startswith("-")]
