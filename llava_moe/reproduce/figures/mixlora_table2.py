"""Conditional MixLoRA, Table 2: factors chosen by the instance, by the task's words, at random, and by the token."""

from __future__ import annotations

from collections.abc import Mapping

from llava_moe.grid.in_words import interval
from llava_moe.grid.measured import KINDS
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build, models_of
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_CLAIMED = ("task", "random")


def cells(build: Build) -> None:
    """Each routing on the same mix, for every seed."""
    for seed in build.setup.seeds:
        for routing, told in models_of(build.setup).items():
            build.train("mixlora", told["words"], build.setup.domains, seed, routing=routing)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of routings by domains; whether the instance does better than the task and than chance."""
    ways = _ways(setup)
    answers = tuple(
        contrast(
            results,
            f"MixLoRA routed by the instance does better than {ways[name].name}",
            ways[name],
            ways["instance"],
            setup.domains,
            expected="better",
        )
        for name in _CLAIMED
    )
    ours = {}
    for name, way in ways.items():
        level = results.level("accuracy", setup.domains, **way.labels)
        if level is not None:
            ours[name] = f"{interval(level, has_sign=False)} % of questions"
    drawing = bar_chart(results, [*ways.values()], setup.domains, setup.title)
    caption = "Bars are means over seeds, lines 95 % intervals over seeds and items."
    return FigureContent(
        answers=answers,
        pictures=(Picture("bars", drawing, caption),) if drawing else (),
        tables=tuple(level_table(results, [*ways.values()], setup.domains, kind) for kind in KINDS),
        contrasts=tuple(_more(setup, results, ways)),
        ways=tuple(ways.values()),
        ours=ours,
        notes=(
            "The paper tells 4 of 32 factors, the demo has 4 of 16: its Llama is small.",
            "The paper's routing by the task reads a definition of it, which instruction data do not have: here it is "
            "the mean word embedding of the prompt's text. At random, there are no routers and no condition of B on A. "
            "Nothing is claimed of the token, of which the paper's table has no row.",
            "The verdict is the mean accuracy over all domains.",
        ),
    )


def _ways(setup: Setup) -> dict[str, Ways]:
    return {
        name: Ways(told["label"], {"model": "mixlora", "on": "mix", "routing": name})
        for name, told in models_of(setup).items()
    }


def _more(setup: Setup, results: Results, ways: Mapping[str, Ways]) -> list[Contrast]:
    """The instance against every other routing: loss of all domains, then each domain; accuracy of the token."""
    others = [name for name in ways if name != "instance"]
    found = []
    for kind in KINDS:
        for name in others:
            pair = (ways[name], ways["instance"])
            if kind == "loss" or name not in _CLAIMED:
                found.append(contrast(results, "", *pair, setup.domains, kind))
            if len(setup.domains) > 1:
                found += [contrast(results, "", *pair, [domain], kind) for domain in setup.domains]
    return found
