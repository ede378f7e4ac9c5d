"""MoLE, table 4: what normalised arithmetic of several LoRAs costs each domain, beside its own LoRA alone."""

from __future__ import annotations

from llava_moe.grid.in_words import interval
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.composed import SHARED_NOTES, expert_ways, merge_experts, train_experts
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import FigureContent, contrast

MERGE = "normalized_linear"
_MERGE = {"label": str, "words": [str]}


def cells(build: Build) -> None:
    """A LoRA of each domain, and the mean of their deltas, for every seed."""
    words = build.setup.axis("merge", _MERGE)["words"]
    for seed in build.setup.seeds:
        merge_experts(build, MERGE, words, train_experts(build, seed), seed)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of domains by LoRAs and their mean; whether each LoRA beats the mean on its own domain."""
    alone = expert_ways(setup)
    merge = Ways(setup.axis("merge", _MERGE)["label"], {"model": MERGE, "on": "mix"})
    ways = [*alone.values(), merge]
    answers = tuple(
        contrast(
            results,
            f"normalised arithmetic does worse on {domain} than the LoRA of {domain} alone",
            way,
            merge,
            [domain],
            expected="worse",
        )
        for domain, way in alone.items()
    )
    more = [
        contrast(results, "", way, merge, [domain], kind)
        for kind in ("accuracy", "loss")
        for way_domain, way in alone.items()
        for domain in setup.domains
        if kind == "loss" or domain != way_domain
    ]
    drawing = bar_chart(results, ways, setup.domains, setup.title)
    caption = "Each LoRA on every domain; the paper's table has it on its own."
    return FigureContent(
        answers=answers,
        pictures=(Picture("bars", drawing, caption),) if drawing else (),
        tables=tuple(level_table(results, ways, setup.domains, kind) for kind in ("accuracy", "loss")),
        contrasts=tuple(more),
        ways=tuple(ways),
        ours=_ours(results, alone, merge),
        notes=SHARED_NOTES,
    )


def _ours(results: Results, alone: dict[str, Ways], merge: Ways) -> dict[str, str]:
    told: dict[str, list[str]] = {"alone": [], "merge": [], "difference": []}
    for domain, way in alone.items():
        levels = {"alone": way.labels, "merge": merge.labels}
        for name, labels in levels.items():
            level = results.level("accuracy", [domain], **labels)
            if level is not None:
                told[name].append(f"{interval(level, has_sign=False)} on {domain}")
        compared = results.against(way.labels, merge.labels, "accuracy", [domain])
        if compared is not None:
            told["difference"].append(f"{interval(compared)} on {domain}")
    units = {"alone": "% of questions", "merge": "% of questions", "difference": "points of accuracy"}
    return {name: f"{', '.join(texts)}: {units[name]}" for name, texts in told.items() if texts}
