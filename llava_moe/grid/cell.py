"""Cells of a grid: each is one run, named by what differs, and says what it starts from and what is measured of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from llava_moe.errors import UserError
from llava_moe.text.did_you_mean import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
Words = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of a grid, an ordinary folder of ``llava-moe train`` or ``llava-moe compose``.

    Attributes:
        name: the run's folder, made of what differs from other cells: ``lora-general-seed0``.
        words: of the command, but for ``out=``, ``init_from=`` and ``experts=``.
        command: what makes the run.
        start: the cell that it starts from (``init_from=``).
        experts: the cells whose adapters it composes (``experts=``).
        measured: commands that look at the finished run, in order, but for ``run=``: ``("eval", "benchmarks=[demo]")``.
            A first word with a dot is a module of this package, run as a program. They are no part of what the run is:
            several grids may have a cell and measure each its own.
        reads: cells of which this is the same must have read the same of a source; a caption of stage 1 is another
            text than a question about the same image.
        labels: what differs, for a page: ``{"model": "LoRA", "seed": 0}``. It decides nothing.
    """

    name: str
    words: Words
    command: Literal["train", "compose"] = "train"
    start: str | None = None
    experts: tuple[str, ...] = ()
    measured: tuple[Words, ...] = ()
    reads: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The cells that must be there before this one begins."""
        return (*(() if self.start is None else (self.start,)), *self.experts)

    def making(self, folder: Path) -> Words:
        """The command that makes the run, with its grid's runs in ``folder``."""
        places = [f"out={folder / self.name}"]
        if self.start is not None:
            places.insert(0, f"init_from={folder / self.start}")
        if self.experts:
            places.insert(0, f"experts=[{','.join(str(folder / name) for name in self.experts)}]")
        return (self.command, *self.words, *places)

    def measuring(self, words: Words, folder: Path) -> Words:
        """One of ``measured`` as it is run."""
        return (*words, f"run={folder / self.name}")


@dataclass(frozen=True)
class Grid:
    """Cells in the order in which they are begun; what a cell needs stands before it.

    Raises:
        ValueError: a name is used twice or makes no folder, or a cell needs one that does not stand before it.
    """

    name: str
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        before: set[str] = set()
        for cell in self.cells:
            if not _NAME.fullmatch(cell.name):
                raise ValueError(f"{cell.name!r} cannot be a cell's name: letters, digits, _.-")
            if cell.name in before:
                raise ValueError(f"two cells are called {cell.name}")
            if missing := [name for name in cell.needs if name not in before]:
                raise ValueError(f"{cell.name} needs {missing[0]}, which does not stand before it")
            before.add(cell.name)

    @cached_property
    def by_name(self) -> Mapping[str, Cell]:
        """The cells by their names."""
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """Cell to eight hex digits that change with any word that makes it, and that makes what it needs."""
        found: dict[str, str] = {}
        for cell in self.cells:
            needed = [(name, found[name]) for name in cell.needs]
            decided = json.dumps([cell.command, cell.words, needed])
            found[cell.name] = hashlib.sha256(decided.encode()).hexdigest()[:8]
        return found

    def only(self, names: Iterable[str]) -> Grid:
        """The grid of these cells and of what they need.

        Raises:
            UserError: there is no such cell; the nearest is named.
        """
        wanted: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in self.by_name:
                raise UserError(
                    f"only={name}: {self.name} has no such cell{did_you_mean(name, [*self.by_name], cutoff=0.3)}"
                )
            if name not in wanted:
                wanted.add(name)
                waiting += self.by_name[name].needs
        return Grid(self.name, tuple(cell for cell in self.cells if cell.name in wanted))


def chain(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells with each starting from the one before it."""
    linked = [Cell(**{**vars(cell), "start": before.name}) for before, cell in pairwise(cells)]
    return (*cells[:1], *linked)
