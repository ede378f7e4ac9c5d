"""MoLE, table 6: compositions of several numbers of LoRAs, asked about the domains that all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.errors import UserError
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.composed import (
    GATES,
    SHARED_NOTES,
    compose_gates,
    merge_experts,
    on_name,
    train_experts,
)
from llava_moe.reproduce.results import Results
from llava_moe.reproduce.setup import FIGURES, Setup
from llava_moe.reproduce.sheet import Contrast, Picture, Sheet, Ways, contrast, interval

_ONE = {"label": str, "words": [str]}
_NOTES = (
    "Of N LoRAs, those of the first N domains; gates learn on these domains alone. All are asked about the domains "
    "that the fewest have. The paper composes 8 to 128 LoRAs, one of each task; here there are as many as domains, so "
    "whether very many do worse again is not asked.",
)


def cells(build: Build) -> None:
    """A LoRA of each domain, and every method over the first of them, for every seed."""
    setup = build.setup
    for seed in setup.seeds:
        experts = train_experts(build, seed, is_measured=False)
        for number in _numbers(setup):
            chosen, domains = experts[:number], setup.domains[:number]
            for method, told in _methods(setup).items():
                if method == GATES:
                    compose_gates(build, told["words"], chosen, seed, domains=domains, granularity="matrix")
                else:
                    merge_experts(build, method, told["words"], chosen, seed, domains=domains)


def sheet(setup: Setup, results: Results) -> Sheet:
    """Bars of domains by methods and numbers; whether MoLE does better than arithmetic at each number."""
    asked = setup.domains[: min(_numbers(setup))]
    answers: list[Contrast] = []
    more: list[Contrast] = []
    ways: list[Ways] = []
    for number in _numbers(setup):
        own = _ways(setup, number)
        ways += own.values()
        for method, way in own.items():
            if method == GATES:
                continue
            claim = f"of {number} LoRAs MoLE does better than {_methods(setup)[method]['label']}"
            answers.append(contrast(results, claim, way, own[GATES], asked, expected="better"))
            more.append(contrast(results, "", way, own[GATES], asked, "loss"))
    low, high = min(_numbers(setup)), max(_numbers(setup))
    for kind in ("accuracy", "loss"):
        for method in _methods(setup):
            pair = (_ways(setup, low)[method], _ways(setup, high)[method])
            more.append(contrast(results, "", *pair, asked, kind))
    drawing = bar_chart(results, ways, asked, setup.title)
    return Sheet(
        answers=tuple(answers),
        pictures=(Picture("bars", drawing, "On the domains that all compositions have."),) if drawing else (),
        tables=tuple(level_table(results, ways, asked, kind) for kind in ("accuracy", "loss")),
        contrasts=tuple(more),
        ways=tuple(ways),
        ours=_ours(results, setup, asked),
        notes=(*SHARED_NOTES, *_NOTES),
    )


def _ours(results: Results, setup: Setup, asked: Sequence[str]) -> dict[str, str]:
    ours = {}
    for method in _methods(setup):
        told = []
        for number in _numbers(setup):
            level = results.level("accuracy", asked, **_ways(setup, number)[method].labels)
            if level is not None:
                told.append(f"{interval(level, has_sign=False)} of {number}")
        if told:
            ours[method] = f"{', '.join(told)}: % of questions, the mean over {' and '.join(asked)}"
    return ours


def _ways(setup: Setup, number: int) -> dict[str, Ways]:
    """Method to its composition of the first domains."""
    on = on_name(setup, setup.domains[:number])
    more = {GATES: {"granularity": "matrix"}}
    return {
        method: Ways(f"{told['label']} of {number}", {"model": method, "on": on, **more.get(method, {})})
        for method, told in _methods(setup).items()
    }


def _methods(setup: Setup) -> dict[str, Mapping[str, Any]]:
    """Merges and then MoLE."""
    return {**setup.axis("merges", {str: _ONE}), GATES: setup.axis(GATES, _ONE)}


def _numbers(setup: Setup) -> list[int]:
    numbers = setup.axis("numbers", [int])
    if not numbers or not all(2 <= number <= len(setup.domains) for number in numbers):
        path = FIGURES / f"{setup.paper}_{setup.figure}.yaml"
        raise UserError(f"{path}: {setup.scale}.axes.numbers must be of 2 to {len(setup.domains)} LoRAs")
    return sorted(numbers)
