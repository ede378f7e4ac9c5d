"""LLaVA-MoLE, Fig. 4: what a rank costs or saves a LoRA of two domains, and LLaVA-MoLE of the same two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.grid.in_words import interval
from llava_moe.grid.measured import Items, Measured, compare
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import level_table
from llava_moe.reproduce.build import Build, models_of, note_of_hard
from llava_moe.reproduce.lines import Curve, by_parameters, line_chart
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_ONE = {"label": str, "words": [str]}
_ALONE = "alone"


def cells(build: Build) -> None:
    """A LoRA of the general domain and each model of the two domains, of every rank, for every seed."""
    setup = build.setup
    general, alone = setup.domains[0], setup.axis("alone", _ONE)
    for seed in setup.seeds:
        for rank in _ranks(setup):
            build.train("lora", _words(setup, alone["words"], rank), [general], seed, **_label(setup, rank))
            for model, told in models_of(setup).items():
                words = _words(setup, told["words"], rank)
                build.train(model, words, _mixed(setup), seed, **_label(setup, rank))


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Lines over ranks and over parameters; which ranks show the conflict, and what LLaVA-MoLE does at each."""
    general, documents = setup.domains[0], _mixed(setup)[-1]
    ways = {rank: _ways(setup, rank) for rank in _ranks(setup)}
    every = [way for of_rank in ways.values() for way in of_rank.values()]
    return FigureContent(
        answers=answers_of(setup, results),
        pictures=tuple(_pictures(setup, results, ways)),
        tables=tuple(level_table(results, every, _mixed(setup), kind) for kind in ("accuracy", "loss")),
        contrasts=tuple(_more(setup, results, ways)),
        ways=tuple(way for of_rank in ways.values() for name, way in of_rank.items() if name != _ALONE),
        ours=_ours(results, ways, general, documents),
        notes=(
            *note_of_hard(setup),
            "What a rank hides: the cost of mixing at the highest rank against that at the lowest, each beside a LoRA "
            f"of {general} alone of its own rank.",
            "Equal parameters: the LoRA of LLaVA-MoLE's size, rank by rank. Equal operations: a kernel that executes "
            "one expert a token makes LLaVA-MoLE as dear as a LoRA of its rank, but for the router; those told here "
            "were executed.",
        ),
    )


def answers_of(setup: Setup, results: Results) -> tuple[Contrast, ...]:
    """At all ranks but the highest the conflict and its cure; at the highest what it hides, and what is to gain."""
    general, documents = setup.domains[0], _mixed(setup)[-1]
    ways = {rank: _ways(setup, rank) for rank in _ranks(setup)}
    *small, top = ways
    answers: list[Contrast] = []
    for rank in small:
        alone, lora, mole = (ways[rank][name] for name in (_ALONE, "lora", "llava_mole"))
        cost = f"of rank {rank}, a LoRA of the two domains does worse on {general} than a LoRA of {general} alone"
        cure = f"of rank {rank}, LLaVA-MoLE does better on {general} than a LoRA on the same two domains"
        answers.append(contrast(results, cost, alone, lora, [general], expected="worse"))
        answers.append(contrast(results, cure, lora, mole, [general], expected="better"))
    if small:
        answers.append(_cost_by_rank(results, ways, small[0], top, general))
    claim = f"of rank {top}, LLaVA-MoLE does better on {documents} than a LoRA on the same two domains"
    answers.append(contrast(results, claim, ways[top]["lora"], ways[top]["llava_mole"], [documents], expected="better"))
    return tuple(answers)


def _cost_by_rank(
    results: Results, ways: Mapping[int, Mapping[str, Ways]], low: int, high: int, general: str
) -> Contrast:
    """What mixing does to a LoRA of the highest rank against what it does to one of the lowest."""
    named, costs = [], []
    for rank in (low, high):
        alone, lora = ways[rank][_ALONE], ways[rank]["lora"]
        named.append(Ways(f"{lora.name} less {alone.name}", {**lora.labels, "less": dict(alone.labels)}))
        costs.append(_less(results.of(**alone.labels), results.of(**lora.labels)))
    # Their sizes are those of the LoRA of each rank.
    sizes = contrast(results, "", ways[low]["lora"], ways[high]["lora"], [general])
    return Contrast(
        claim=f"mixing takes less from {general} at rank {high} than at rank {low}",
        before=named[0],
        after=named[1],
        kind="accuracy",
        domains=(general,),
        expected="better",
        compared=compare(costs[0], costs[1], "accuracy", [general]),
        parameters=sizes.parameters,
        flops=sizes.flops,
    )


def _less(before: Mapping[int, Measured], after: Mapping[int, Measured]) -> Mapping[int, Measured]:
    """Seed to ``after`` with the items of ``before`` taken off, item by item."""
    found = {}
    for seed in (seed for seed in after if seed in before):
        items = {}
        for key, new in after[seed].items.items():
            old = before[seed].items.get(key)
            if old is not None and old.names == new.names:
                items[key] = Items(new.names, new.sums_G - old.sums_G, new.weights_G)
        found[seed] = Measured(after[seed].parameters, after[seed].flops_per_token, items, {})
    return found


def _pictures(setup: Setup, results: Results, ways: Mapping[int, Mapping[str, Ways]]) -> list[Picture]:
    told = {_ALONE: setup.axis("alone", _ONE), **models_of(setup)}
    curves = [
        Curve(
            one["label"],
            [(float(rank), of_rank[name]) for rank, of_rank in ways.items()],
            setup.domains[:1] if name == _ALONE else (),
        )
        for name, one in told.items()
    ]
    # At the rank of the LLaVA-MoLE whose size it has, a wide LoRA would stand under a rank that is not its own.
    drawn = {
        "ranks": ([curve for curve in curves if curve.name != told["lora_wide"]["label"]], "rank"),
        "parameters": (by_parameters(results, curves), "trainable parameters"),
    }
    pictures = []
    for name, (lines, axis) in drawn.items():
        drawing = line_chart(results, lines, _mixed(setup), axis, f"{setup.title}, over {axis}")
        if drawing:
            over = (
                "Over ranks"
                if name == "ranks"
                else "The same over parameters: what stands above each other is as large"
            )
            pictures.append(Picture(name, drawing, f"{over}. Bars are 95 % intervals over seeds and items."))
    return pictures


def _more(setup: Setup, results: Results, ways: Mapping[int, Mapping[str, Ways]]) -> list[Contrast]:
    """Each rank, domain and measure: the mix against general alone, LLaVA-MoLE against each LoRA and against hard."""
    general, *_ = setup.domains
    found = []
    for of_rank in ways.values():
        alone, lora, mole, wide = (of_rank[name] for name in (_ALONE, "lora", "llava_mole", "lora_wide"))
        hard = of_rank.get("llava_mole_hard")
        for kind in ("accuracy", "loss"):
            found += [contrast(results, "", alone, way, [general], kind) for way in (lora, mole)]
            for domain in _mixed(setup):
                pairs = [(lora, mole), (wide, mole), *([] if hard is None else [(lora, hard), (hard, mole)])]
                found += [contrast(results, "", before, after, [domain], kind) for before, after in pairs]
    return found


def _ours(
    results: Results,
    ways: Mapping[int, Mapping[str, Ways]],
    general: str,
    documents: str,
) -> dict[str, str]:
    """Our differences beside what the article tells in words."""
    *small, top = ways
    pairs = {
        "conflict": [(rank, _ALONE, "lora", general) for rank in small],
        "hidden": [(top, _ALONE, "lora", general)],
        "mole general": [(rank, _ALONE, "llava_mole", general) for rank in small],
        "mole documents": [(top, "lora", "llava_mole", documents)],
    }
    ours = {}
    for name, rows in pairs.items():
        told = []
        for rank, before, after, domain in rows:
            compared = results.against(ways[rank][before].labels, ways[rank][after].labels, "accuracy", [domain])
            if compared is not None:
                told.append(f"rank {rank}: {interval(compared)}")
        if told:
            ours[name] = f"{'; '.join(told)} points of accuracy"
    level = results.level("accuracy", [general], **ways[top]["lora"].labels)
    if level is not None:
        ours["lora general"] = f"rank {top}: {interval(level, has_sign=False)} % of questions"
    return ours


def _ways(setup: Setup, rank: int) -> dict[str, Ways]:
    """The LoRA of the general domain alone and each model of the two, of a rank."""
    general, on = setup.domains[0], "_".join(_mixed(setup))
    alone = Ways(
        f"{setup.axis('alone', _ONE)['label']}, rank {rank}",
        {"model": "lora", "on": general, **_label(setup, rank)},
    )
    mixed = {}
    for name, told in models_of(setup).items():
        own = setup.axis("ranks", {str: int})[rank] if name == "lora_wide" else rank
        mixed[name] = Ways(f"{told['label']}, rank {own}", {"model": name, "on": on, **_label(setup, rank)})
    return {_ALONE: alone, **mixed}


def _label(setup: Setup, rank: int) -> dict[str, Any]:
    """The rank as a label; none where other figures have the same runs."""
    return {} if rank == setup.axis("shared_rank", int) else {"rank": f"r{rank}"}


def _words(setup: Setup, words: Sequence[str], rank: int) -> list[str]:
    wide = setup.axis("ranks", {str: int})[rank]
    sizes = {"rank": rank, "alpha": 2 * rank, "wide": wide, "wide_alpha": 2 * wide}
    return [word.format(**sizes) for word in words]


def _ranks(setup: Setup) -> tuple[int, ...]:
    return tuple(sorted(setup.axis("ranks", {str: int})))


def _mixed(setup: Setup) -> list[str]:
    domains: list[str] = setup.axis("domains", [str])
    return domains
