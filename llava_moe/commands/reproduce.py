"""``llava-moe reproduce``: a figure of a paper from runs of our own; those that are there are not made again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llava_moe.commands.grid_runs import command_of, make_runs, say_failures, say_line
from llava_moe.config.as_typed import set_key
from llava_moe.grid.cell import Grid
from llava_moe.grid.results import Results
from llava_moe.grid.runner import Outcome
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.index import Entry, entries, find, module_of
from llava_moe.reproduce.page import write_page
from llava_moe.reproduce.setup import Setup, read_setup
from llava_moe.runs.console import open_console, say_next
from llava_moe.terminal.console import print_whole
from llava_moe.text.shell_words import named, shell

FOLDER = Path("runs/reproduce")


def list_figures() -> int:
    """Print every figure and table of the papers: how it is drawn, or why it is not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("paper", "asked for by", "what it shows", "drawn"):
        table.add_column(heading, overflow="fold")
    for entry in entries().values():
        table.add_row(entry.paper, entry.word, entry.title, "yes" if entry.is_drawn else f"no: {entry.reason}")
    console = open_console()
    print_whole(console, table)
    first = next(entry for entry in entries().values() if entry.is_drawn)
    say_next(console, [f"llava-moe reproduce paper={first.paper} {first.word}"])
    return 0


def reproduce(plain: Mapping[str, Any], typed: Sequence[str]) -> int:
    """Make what is not there of a figure's grid, and its page; 1 where a run failed."""
    entry, setup, grid = open_figure(plain)
    folder = Path(plain["out"]) if plain["out"] else FOLDER / f"{entry.paper}-{entry.figure}-{setup.scale}"
    cells = Path(plain["cells"]) if plain["cells"] else folder / "cells"
    console = open_console()
    if plain["commands"]:
        words = ["reproduce", *_without(typed, "commands", "at_once", "only")]
        for cell in grid.cells:
            say_line(console, command_of(words, cell))
        return 0
    wanted = grid if plain["only"] is None else grid.only([plain["only"]])
    outcome = make_runs(f"{entry.paper} {entry.figure}", wanted, cells, plain["at_once"], console)
    results = Results(grid, cells)
    written = write_page(entry, setup, results, folder, shell("llava-moe", "reproduce", *_without(typed, "only")))
    for sentence in written.sentences:
        say_line(console, sentence)
    say_line(console, f"page: {written.page}")
    return _end(outcome, results, console)


def open_figure(plain: Mapping[str, Any]) -> tuple[Entry, Setup, Grid]:
    """The figure that the settings name, at its scale and seeds, and all of its cells.

    Raises:
        UserError: there is no such figure, it is not drawn, or its yaml is damaged.
    """
    table = plain["table"]
    entry = find(plain["paper"], str(plain["figure"]) if table is None else f"table{table}")
    setup = read_setup(entry.paper, entry.figure, plain["size"])
    if plain["seeds"] is not None:
        setup = replace(setup, seeds=tuple(plain["seeds"]))
    if plain["samples"] is not None:
        setup = setup.with_samples(plain["samples"])
    if plain["more"]:
        setup = replace(setup, both=(*setup.both, *shlex.split(plain["more"])))
    build = Build(setup)
    module_of(entry.paper, entry.figure).cells(build)
    return entry, setup, build.grid()


def _end(outcome: Outcome, results: Results, console: Console) -> int:
    if say_failures(outcome, console):
        return 1
    roots = [results.folder / cell.name for cell in results.cells if cell.labels["model"] != "stage 1"]
    say_next(console, [f"llava-moe chat {named('run', root)}" for root in roots[-1:]])
    return 0


def _without(typed: Sequence[str], *keys: str) -> list[str]:
    return [word for word in typed if set_key(word) not in keys and not word.startswith("-")]
