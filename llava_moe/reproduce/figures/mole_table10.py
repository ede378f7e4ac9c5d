"""MoLE, table 10: three to six LoRAs in one model, each composition asked about the domains of its own LoRAs."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.grid.measured import KINDS
from llava_moe.grid.results import Results
from llava_moe.pages.content import Picture, Table
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
    "The paper composes LoRAs of an image generator and asks how well its images fit text and pictures. Here LoRAs of "
    "domains answer questions: the rows and the claim are the paper's, the measure is another.",
    "Of N LoRAs, those of the first N domains; gates learn on these domains alone, and each composition is asked about "
    "its own. Levels of different numbers are so of different questions; at one number all methods have the same.",
    "In SVDiff's place stands PEFT's SVD merge, which cuts the sum of the LoRAs to one LoRA's rank and learns nothing.",
)


def cells(build: Build) -> None:
    """A LoRA of each domain, and every method over the first of them, for every seed."""
    add_numbers(build)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars for each number of LoRAs; whether MoLE does better than merges at each."""

    def own(number: int) -> Sequence[str]:
        return setup.domains[:number]

    answers, losses = against_merges(setup, results, own)
    pictures: list[Picture] = []
    tables: list[Table] = []
    for number in numbers_of(setup):
        ways = [*ways_of(setup, number).values()]
        if drawing := bar_chart(results, ways, own(number), f"{setup.title}: {number}"):
            pictures.append(Picture(f"bars_{number}", drawing, f"{number} LoRAs on the domains of their own."))
        tables += [level_table(results, ways, own(number), kind, f"{number} LoRAs") for kind in KINDS]
    told = accuracies(setup, results, own)
    return FigureContent(
        answers=tuple(answers),
        pictures=tuple(pictures),
        tables=tuple(tables),
        contrasts=(*losses, *fewest_against_most(setup, results, own(min(numbers_of(setup))))),
        ways=tuple(way for number in numbers_of(setup) for way in ways_of(setup, number).values()),
        ours={method: f"{levels}: % of questions, the mean over their domains" for method, levels in told.items()},
        notes=(*SHARED_NOTES, *_NOTES),
    )
