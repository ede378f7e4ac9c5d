"""MoLE, table 9, text column: the granularity of the gates over the same LoRAs."""

from __future__ import annotations

from collections.abc import Mapping

from llava_moe.grid.in_words import interval
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.composed import GATES, SHARED_NOTES, compose_gates, train_experts
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import FigureContent, contrast

# What the paper finds: the first does better than the second.
_CLAIMS = (("block", "matrix"), ("block", "network"), ("layer", "matrix"), ("layer", "network"))


def cells(build: Build) -> None:
    """A LoRA of each domain, and gates of each granularity over them, for every seed."""
    for seed in build.setup.seeds:
        experts = train_experts(build, seed, is_measured=False)
        for name in _granularities(build.setup):
            compose_gates(build, [f"granularity={name}"], experts, seed, granularity=name)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of domains by granularities; whether gates of layers and blocks do better than finer and coarser ones."""
    ways = {
        name: Ways(label, {"model": GATES, "on": "mix", "granularity": name})
        for name, label in _granularities(setup).items()
    }
    answers = tuple(
        contrast(
            results,
            f"gates for each {high} do better than {'one' if low == 'network' else 'gates'} for {_each(low)}",
            ways[low],
            ways[high],
            setup.domains,
            expected="better",
        )
        for high, low in _CLAIMS
    )
    more = [
        contrast(results, "", ways["matrix"], way, [domain], kind)
        for kind in ("accuracy", "loss")
        for domain in setup.domains
        for name, way in ways.items()
        if name != "matrix"
    ]
    losses = [contrast(results, "", ways[low], ways[high], setup.domains, "loss") for high, low in _CLAIMS]
    ours = {}
    for name, way in ways.items():
        level = results.level("accuracy", setup.domains, **way.labels)
        if level is not None:
            ours[name] = f"{interval(level, has_sign=False)} % of questions, the mean over domains"
    shown = [*ways.values()]
    drawing = bar_chart(results, shown, setup.domains, setup.title)
    return FigureContent(
        answers=answers,
        pictures=(Picture("bars", drawing, "Gates over the same LoRAs of the domains."),) if drawing else (),
        tables=tuple(level_table(results, shown, setup.domains, kind) for kind in ("accuracy", "loss")),
        contrasts=(*losses, *more),
        ways=tuple(shown),
        ours=ours,
        notes=SHARED_NOTES,
    )


def _each(granularity: str) -> str:
    return "the network" if granularity == "network" else f"each {granularity}"


def _granularities(setup: Setup) -> Mapping[str, str]:
    return setup.axis("granularities", {"matrix": str, "layer": str, "block": str, "network": str})
