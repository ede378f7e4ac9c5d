"""MoLE, table 5: what each slice of the depth of one LoRA does for each domain, and whether one beats the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.grid.in_words import interval
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.composed import merge_experts
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_LORA = {"label": str, "words": [str]}
_MODEL = "lora"
_NOTES = (
    "A slice is the trained LoRA with the other layers' taken off, by llava-moe compose method=linear layers=[...]; "
    "nothing is trained again. The projector that was trained with the LoRA stays in all of them.",
    "Which slice is a domain's best is chosen by the loss on held-out records and judged by the accuracy on questions, "
    "for the best of several by the very items that judge it looks better than it is. Where nothing is held out every "
    "slice is asked for.",
)


def cells(build: Build) -> None:
    """A LoRA of the mix and its slices, for every seed."""
    setup = build.setup
    for seed in setup.seeds:
        whole = build.train(_MODEL, setup.axis("lora", _LORA)["words"], setup.domains, seed)
        for name, told in _told(setup).items():
            layers = f"layers=[{','.join(map(str, told['layers']))}]"
            merge_experts(build, _MODEL, ["method=linear", layers], [whole], seed, slice=name)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of domains by slices; whether the best slice of a domain beats all layers, and its worst slice."""
    whole, slices = _ways(setup)
    ways = [whole, *slices.values()]
    answers: list[Contrast] = []
    best: dict[str, str] = {}
    for domain in setup.domains:
        ranked = _ranked(results, slices, domain)
        if ranked:
            best[domain] = ranked[0]
        answers += _answers(results, whole, slices, ranked, domain)
    more = [
        contrast(results, "", whole, way, [domain], kind)
        for kind in ("accuracy", "loss")
        for domain in setup.domains
        for way in slices.values()
    ]
    drawing = bar_chart(results, ways, setup.domains, setup.title)
    return FigureContent(
        answers=tuple(answers),
        pictures=(Picture("bars", drawing, "One LoRA of the mix, active where the legend says."),) if drawing else (),
        tables=tuple(level_table(results, ways, setup.domains, kind) for kind in ("accuracy", "loss")),
        contrasts=tuple(more),
        ways=tuple(ways),
        ours=_ours(results, setup, ways, best),
        facts={"best slice by held-out loss": best},
        notes=_NOTES,
    )


def _answers(
    results: Results, whole: Ways, slices: Mapping[str, Ways], ranked: list[str], domain: str
) -> list[Contrast]:
    """Of the slices from best to worst by held-out loss; without such an order, of every slice."""
    if not ranked:
        return [
            contrast(
                results, f"{way.name} do better on {domain} than all layers", whole, way, [domain], expected="better"
            )
            for way in slices.values()
        ]
    high, low = slices[ranked[0]], slices[ranked[-1]]
    is_better = f"{high.name}, the best slice on {domain} by held-out loss, do better than all layers"
    differs = f"slices differ: {high.name} do better on {domain} than {low.name}"
    return [
        contrast(results, is_better, whole, high, [domain], expected="better"),
        contrast(results, differs, low, high, [domain], expected="better"),
    ]


def _ranked(results: Results, slices: Mapping[str, Ways], domain: str) -> list[str]:
    """The slices from the lowest held-out loss on a domain to the highest; [] where one of them has none."""
    levels = {name: results.level("loss", [domain], **way.labels) for name, way in slices.items()}
    losses = {name: level.after for name, level in levels.items() if level is not None}
    return sorted(losses, key=losses.__getitem__) if len(losses) == len(slices) else []


def _ours(results: Results, setup: Setup, ways: list[Ways], best: Mapping[str, str]) -> dict[str, str]:
    """Beside the paper's rows; its fifths of the depth stand beside fifths alone."""
    ids = ["all", *(f"slice {number}" for number in range(1, len(ways)))]
    has_fifths = {one.id for one in setup.published} == {*ids, "best"}
    ours = {}
    for name, way in zip(ids if has_fifths else ids[:1], ways, strict=False):
        levels = {domain: results.level("accuracy", [domain], **way.labels) for domain in setup.domains}
        told = [f"{interval(one, has_sign=False)} on {domain}" for domain, one in levels.items() if one is not None]
        if told:
            ours[name] = f"{', '.join(told)}, % of questions"
    slices = _ways(setup)[1]
    gains = [
        (domain, results.against(ways[0].labels, slices[name].labels, "accuracy", [domain]))
        for domain, name in best.items()
    ]
    told = [f"{interval(gain)} on {domain}" for domain, gain in gains if gain is not None]
    return ours | ({"best": f"{', '.join(told)}, points of accuracy"} if told else {})


def _ways(setup: Setup) -> tuple[Ways, dict[str, Ways]]:
    whole = {"model": _MODEL, "on": "mix"}
    slices = {name: Ways(told["label"], whole | {"slice": name}) for name, told in _told(setup).items()}
    return Ways(setup.axis("lora", _LORA)["label"], whole), slices


def _told(setup: Setup) -> Mapping[str, Mapping[str, Any]]:
    return setup.axis("slices", {str: {"label": str, "layers": [int]}})
