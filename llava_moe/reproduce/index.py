"""All figures and tables of the three papers: which are drawn, and why the others are not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from llava_moe.errors import UserError
from llava_moe.files.our_files import misfit, read_text
from llava_moe.grid.results import Results
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.setup import FIGURES, Setup
from llava_moe.reproduce.sheet import FigureContent
from llava_moe.text.did_you_mean import did_you_mean
from llava_moe.text.structured_text import parse_yaml

INDEX = Path(__file__).with_name("index.yaml")
_SHAPE = {str: {"paper": str, "figures": {str: {"title": str, "reason?": str}}}}


class Figure(Protocol):
    """What a figure's module has."""

    def cells(self, build: Build) -> None:
        """Add the figure's cells."""

    def sheet(self, setup: Setup, results: Results) -> FigureContent:
        """What is drawn and told of the cells that are there."""


@dataclass(frozen=True)
class Entry:
    """One figure or table of a paper.

    Attributes:
        figure: ``fig1``, ``table2``.
        reason: why it is not drawn; empty where it is.
    """

    paper: str
    paper_title: str
    figure: str
    title: str
    reason: str

    @property
    def is_drawn(self) -> bool:
        """Whether it has a yaml and a module."""
        return (FIGURES / f"{self.paper}_{self.figure}.yaml").is_file()

    @property
    def number(self) -> str:
        """``1`` of a figure, ``table2`` of a table."""
        return self.figure.removeprefix("fig")

    @property
    def word(self) -> str:
        """The word that asks for it: ``figure=1``, ``table=2``."""
        return word_of(self.number)


@cache
def entries() -> Mapping[tuple[str, str], Entry]:
    """(paper, figure) -> entry, in the papers' order.

    Raises:
        UserError: the index is damaged.
    """
    told = parse_yaml(read_text(INDEX, "put it back"))
    if wrong := misfit(told, _SHAPE):
        raise UserError(f"{INDEX}: {wrong}")
    found = {}
    for paper, of_paper in told.items():
        for figure, one in of_paper["figures"].items():
            entry = Entry(paper, of_paper["paper"], figure, one["title"], one.get("reason", ""))
            found[paper, figure] = entry
    return found


def find(paper: str, figure: str) -> Entry:
    """The figure that ``paper=`` and ``figure=`` name; ``1`` and ``fig1`` are the same.

    Args:
        figure: of a table, ``table2``.

    Raises:
        UserError: there is none, the nearest is named; or it is not drawn, and why.
    """
    papers = list(dict.fromkeys(name for name, _ in entries()))
    if paper not in papers:
        raise UserError(f"paper={paper}{did_you_mean(paper, papers, cutoff=0.1)}: the papers are {', '.join(papers)}")
    own = {entry.number: entry for (name, _), entry in entries().items() if name == paper}
    number = re.sub(r"^fig(?:ure)?[ ._-]*(?=\d)|[ ._-]+", "", figure.lower())
    if number not in own:
        drawn = ", ".join(one.word for one in own.values() if one.is_drawn)
        meant = did_you_mean(number, own, cutoff=0.1, shown=lambda name: own[name].word)
        raise UserError(f"{word_of(figure)}{meant}: {paper} has no such figure or table; drawn of it are {drawn}")
    if not own[number].is_drawn:
        told = f"{own[number].title} is not drawn ({own[number].reason})"
        raise UserError(f"{word_of(figure)}: {told}; llava-moe reproduce lists those that are")
    return own[number]


def word_of(figure: str) -> str:
    """The word by which a user asks for ``1`` or ``table2``."""
    table = re.fullmatch(r"table(\d+)", figure)
    return f"table={table[1]}" if table else f"figure={figure}"


def module_of(paper: str, figure: str) -> Figure:
    """The module of a figure that is drawn."""
    return cast(Figure, importlib.import_module(f"llava_moe.reproduce.figures.{paper}_{figure}"))
