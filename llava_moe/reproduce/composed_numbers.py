"""Compositions of several numbers of LoRAs: those of the first domains, by MoLE and by merges, held against each other.

Axes: ``numbers`` of LoRAs, ``merges`` by name, ``mole``, beside those of :mod:`llava_moe.reproduce.composed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llava_moe.errors import UserError
from llava_moe.grid.in_words import interval
from llava_moe.grid.measured import KINDS
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.composed import GATES, compose_gates, merge_experts, on_name, train_experts
from llava_moe.reproduce.setup import FIGURES, Setup
from llava_moe.reproduce.sheet import Contrast, contrast

_ONE = {"label": str, "words": [str]}
Asked = Callable[[int], Sequence[str]]
"""The domains that a composition of so many LoRAs is asked about."""


def add_numbers(build: Build) -> None:
    """A LoRA of each domain, and every method over the first of them, for every seed."""
    setup = build.setup
    for seed in setup.seeds:
        experts = train_experts(build, seed, is_measured=False)
        for number in numbers_of(setup):
            chosen, domains = experts[:number], setup.domains[:number]
            for method, told in methods_of(setup).items():
                if method == GATES:
                    compose_gates(build, told["words"], chosen, seed, domains=domains, granularity="matrix")
                else:
                    merge_experts(build, method, told["words"], chosen, seed, domains=domains)


def ways_of(setup: Setup, number: int) -> dict[str, Ways]:
    """Method to its composition of the first domains."""
    on = on_name(setup, setup.domains[:number])
    more = {GATES: {"granularity": "matrix"}}
    return {
        method: Ways(f"{told['label']} of {number}", {"model": method, "on": on, **more.get(method, {})})
        for method, told in methods_of(setup).items()
    }


def against_merges(setup: Setup, results: Results, asked: Asked) -> tuple[list[Contrast], list[Contrast]]:
    """Whether MoLE does better than each merge of as many LoRAs, and the same of the loss."""
    answers, losses = [], []
    for number in numbers_of(setup):
        own = ways_of(setup, number)
        for method, way in own.items():
            if method == GATES:
                continue
            claim = f"of {number} LoRAs MoLE does better than {methods_of(setup)[method]['label']}"
            answers.append(contrast(results, claim, way, own[GATES], asked(number), expected="better"))
            losses.append(contrast(results, "", way, own[GATES], asked(number), "loss"))
    return answers, losses


def fewest_against_most(setup: Setup, results: Results, domains: Sequence[str]) -> list[Contrast]:
    """What the most LoRAs do against the fewest, each method, on domains that both have."""
    low, high = (ways_of(setup, number) for number in (min(numbers_of(setup)), max(numbers_of(setup))))
    return [
        contrast(results, "", low[method], high[method], domains, kind)
        for kind in KINDS
        for method in methods_of(setup)
    ]


def accuracies(setup: Setup, results: Results, asked: Asked) -> dict[str, str]:
    """Method to its accuracies, each with its number of LoRAs; methods of which nothing is there are left out."""
    told = {}
    for method in methods_of(setup):
        levels = {
            number: results.level("accuracy", asked(number), **ways_of(setup, number)[method].labels)
            for number in numbers_of(setup)
        }
        there = [f"{interval(level, has_sign=False)} of {number}" for number, level in levels.items() if level]
        if there:
            told[method] = ", ".join(there)
    return told


def methods_of(setup: Setup) -> dict[str, Mapping[str, Any]]:
    """Merges and then MoLE."""
    return {**setup.axis("merges", {str: _ONE}), GATES: setup.axis(GATES, _ONE)}


def numbers_of(setup: Setup) -> list[int]:
    """The numbers of LoRAs, the fewest first.

    Raises:
        UserError: there is none, or one that no composition of the domains has.
    """
    numbers = setup.axis("numbers", [int])
    if not numbers or not all(2 <= number <= len(setup.domains) for number in numbers):
        path = FIGURES / f"{setup.paper}_{setup.figure}.yaml"
        raise UserError(f"{path}: {setup.scale}.axes.numbers must be of 2 to {len(setup.domains)} LoRAs")
    return sorted(numbers)
