"""MoLE, table 6: compositions of several numbers of LoRAs, asked about the domains that all of them have."""

from __future__ import annotations

from llava_moe.grid.measured import KINDS
from llava_moe.grid.results import Results
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.composed import SHARED_NOTES
from llava_moe.reproduce.composed_numbers import (
    accuracies,
    add_numbers,
    against_merges,
    fewest_against_most,
    numbers_of,
    ways_of,
)
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import FigureContent

_NOTES = (
    "Of N LoRAs, those of the first N domains; gates learn on these domains alone. All are asked about the domains "
    "that the fewest have. The paper composes 8 to 128 LoRAs, one of each task; here there are as many as domains, so "
    "whether very many do worse again is not asked.",
)


def cells(build: Build) -> None:
    """A LoRA of each domain, and every method over the first of them, for every seed."""
    add_numbers(build)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of domains by methods and numbers; whether MoLE does better than arithmetic at each number."""
    asked = setup.domains[: min(numbers_of(setup))]
    answers, losses = against_merges(setup, results, lambda _: asked)
    ways = [way for number in numbers_of(setup) for way in ways_of(setup, number).values()]
    drawing = bar_chart(results, ways, asked, setup.title)
    told = accuracies(setup, results, lambda _: asked)
    where = f"% of questions, the mean over {' and '.join(asked)}"
    return FigureContent(
        answers=tuple(answers),
        pictures=(Picture("bars", drawing, "On the domains that all compositions have."),) if drawing else (),
        tables=tuple(level_table(results, ways, asked, kind) for kind in KINDS),
        contrasts=(*losses, *fewest_against_most(setup, results, asked)),
        ways=tuple(ways),
        ours={method: f"{levels}: {where}" for method, levels in told.items()},
        notes=(*SHARED_NOTES, *_NOTES),
    )
