"""MoLE, table 7 and Fig. 5: what the balance loss does for the gates, and whether a higher temperature does it too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llava_moe.files.our_files import NUMBER, read_object
from llava_moe.grid.in_words import interval
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture, Table
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.composed import GATES, SHARED_NOTES, compose_gates, merge_experts, train_experts
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import FigureContent, contrast

_ONE = {"label": str, "words": [str]}
_MERGE = "normalized_linear"
_ROUTING = {"checkpoints": [{"kinds": {str: {"routers": [{"mean_share": [NUMBER]}]}}}]}
_NOTES = (
    "The paper holds higher temperatures fixed. Here a temperature is where the gates begin, and it is learned from "
    "there as in all compositions.",
    "The largest weight of one LoRA: its mean over gates, domains and held-out records.",
)


def cells(build: Build) -> None:
    """A LoRA of each domain; gates with the balance loss, and without it; their mean, for every seed."""
    setup = build.setup
    split = setup.measures.split
    looks = [] if split is None else [("analyze", "routing", f"split={split}", "num_threads=1")]
    for seed in setup.seeds:
        experts = train_experts(build, seed, is_measured=False)
        merge_experts(build, _MERGE, setup.axis("merge", _ONE)["words"], experts, seed)
        words = setup.axis("mole", _ONE)["words"]
        compose_gates(build, words, experts, seed, more=looks, granularity="matrix")
        for name, told in setup.axis("unbalanced", {str: _ONE}).items():
            compose_gates(build, told["words"], experts, seed, more=looks, gates=name)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of domains by gates; whether the balance loss helps, and how much of the weight one LoRA takes."""
    ways = _ways(setup)
    mole, merge = ways["mole"], ways["merge"]
    unbalanced = [ways[name] for name in setup.axis("unbalanced", {str: _ONE})]
    answers = [
        contrast(results, "MoLE does better than normalised arithmetic", merge, mole, setup.domains, expected="better"),
        *(
            contrast(results, f"MoLE with {way.name} does worse than MoLE", mole, way, setup.domains, expected="worse")
            for way in unbalanced
        ),
    ]
    pairs = [(merge, mole), *((mole, way) for way in unbalanced)]
    more = [contrast(results, "", *pair, setup.domains, "loss") for pair in pairs]
    for kind in ("accuracy", "loss"):
        more += [contrast(results, "", *pair, [domain], kind) for domain in setup.domains for pair in pairs]
    largest = {name: share for name, way in ways.items() if (share := _largest(results, way)) is not None}
    ours = {f"largest {name}": f"{100 * share:.1f} % of the weight" for name, share in largest.items()}
    for name, way in ways.items():
        level = results.level("accuracy", setup.domains, **way.labels)
        if level is not None:
            ours[name] = f"{interval(level, has_sign=False)} % of questions, the mean over domains"
    drawing = bar_chart(results, [*ways.values()], setup.domains, setup.title)
    rows = tuple((ways[name].name, f"{100 * share:.1f}") for name, share in largest.items())
    weights = Table("Largest weight of one LoRA, the mean over seeds, %", ("", "weight"), rows)
    levels = (level_table(results, [*ways.values()], setup.domains, kind) for kind in ("accuracy", "loss"))
    return FigureContent(
        answers=tuple(answers),
        pictures=(Picture("bars", drawing, "Gates over the same LoRAs of the domains."),) if drawing else (),
        tables=(*levels, *((weights,) if rows else ())),
        contrasts=tuple(more),
        ways=(mole, *(way for name, way in ways.items() if name != "mole")),
        ours=ours,
        facts={"largest weight": {name: round(share, 4) for name, share in largest.items()}},
        notes=(*SHARED_NOTES, *_NOTES),
    )


def _largest(results: Results, way: Ways) -> float | None:
    """Largest mean weight of one LoRA, the mean over seeds; None where no gates were looked at."""
    found = [_largest_of(path) for path in results.file("analyze/routing.json", **way.labels).values()]
    return float(np.mean(found)) if found else None


def _largest_of(path: Path) -> float:
    told = read_object(path, "delete it and the run's card, and run again", _ROUTING)
    (kind,) = told["checkpoints"][-1]["kinds"].values()
    return float(np.mean([router["mean_share"] for router in kind["routers"]], axis=0).max())


def _ways(setup: Setup) -> dict[str, Ways]:
    """The rows of the table in its order."""
    rows = {
        "merge": Ways(setup.axis("merge", _ONE)["label"], {"model": _MERGE, "on": "mix"}),
        "mole": Ways(setup.axis("mole", _ONE)["label"], {"model": GATES, "on": "mix", "granularity": "matrix"}),
    }
    for name, told in setup.axis("unbalanced", {str: _ONE}).items():
        rows[name] = Ways(told["label"], {"model": GATES, "on": "mix", "gates": name})
    return rows
