"""Conditional MixLoRA, Fig. 4: how many factors there are and are chosen, with and without the condition of B on A."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from llava_moe.grid.in_words import interval
from llava_moe.grid.measured import KINDS
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import level_table
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.lines import Curve, line_chart
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_CHOICES = {"cfs": "B chosen with A (CFS)", "ifs": "B chosen alone (IFS)"}
Size = tuple[int, int]
"""E factors, of which r are chosen."""


def cells(build: Build) -> None:
    """Each size with and without the condition on the same mix, for every seed."""
    setup = build.setup
    for seed in setup.seeds:
        for num_factors, r in _sizes(setup):
            for choice in _CHOICES:
                words = [
                    "adapter=mixlora",
                    f"adapter.num_factors={num_factors}",
                    f"adapter.r={r}",
                    f"adapter.conditional={'true' if choice == 'cfs' else 'false'}",
                ]
                build.train("mixlora", words, setup.domains, seed, size=f"e{num_factors}r{r}", choice=choice)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Lines over r and over E; whether the condition, more factors and more chosen ones help."""
    ways = _ways(setup)
    every = [way for of_choice in ways.values() for way in of_choice.values()]
    return FigureContent(
        answers=_answers(setup, results, ways),
        pictures=tuple(_pictures(setup, results, ways)),
        tables=tuple(level_table(results, every, setup.domains, kind) for kind in KINDS),
        contrasts=tuple(_more(setup, results, ways)),
        ways=tuple(every),
        ours=_ours(setup, results, ways),
        notes=(
            "s = lora_alpha / r with lora_alpha = 2r at every size. In the released code the scale is 2E / r, so that "
            "there r and E change the step, too.",
            "r costs no parameters, E does. That r = 8 is no better than r = 4 has no verdict: an interval cannot show "
            "that two are alike; the difference stands below.",
            "The verdicts are the mean accuracy over all domains, with the condition where it is not said.",
        ),
    )


def _answers(setup: Setup, results: Results, ways: Mapping[Size, Mapping[str, Ways]]) -> tuple[Contrast, ...]:
    middle, ranks, factors = _middle(setup), _ranks(setup), _factors(setup)
    claims = [
        (
            f"with {_told(middle)}, the condition of B on A does better than none",
            ways[middle]["ifs"],
            ways[middle]["cfs"],
        )
    ]
    pairs = [((middle[0], ranks[0]), middle), ((factors[0], middle[1]), (factors[-1], middle[1]))]
    for less, more in pairs:
        claims.append((f"{_told(more)} do better than {_told(less)}", ways[less]["cfs"], ways[more]["cfs"]))
    return tuple(
        contrast(results, claim, before, after, setup.domains, expected="better") for claim, before, after in claims
    )


def _pictures(setup: Setup, results: Results, ways: Mapping[Size, Mapping[str, Ways]]) -> list[Picture]:
    num_factors, r = _middle(setup)
    over = {
        "chosen": ("factors chosen (r)", {float(one): (num_factors, one) for one in _ranks(setup)}),
        "factors": ("factors (E)", {float(one): (one, r) for one in _factors(setup)}),
    }
    pictures = []
    for name, (axis, sizes) in over.items():
        curves = [
            Curve(label, [(place, ways[size][choice]) for place, size in sizes.items()])
            for choice, label in _CHOICES.items()
        ]
        drawing = line_chart(results, curves, setup.domains, axis, f"{setup.title}, over {axis}")
        if drawing:
            fixed = f"E = {num_factors}" if name == "chosen" else f"r = {r}"
            pictures.append(
                Picture(name, drawing, f"Over {axis}, {fixed}. Bars are 95 % intervals over seeds and items.")
            )
    return pictures


def _more(setup: Setup, results: Results, ways: Mapping[Size, Mapping[str, Ways]]) -> list[Contrast]:
    """The condition at every size, and each step of r and of E, by measure; each domain alone for the first."""
    num_factors, r = _middle(setup)
    ranks = [(num_factors, one) for one in _ranks(setup)]
    factors = [(one, r) for one in _factors(setup)]
    steps = [*pairwise(ranks), *pairwise(factors)]
    found = []
    for kind in KINDS:
        for way in ways.values():
            found.append(contrast(results, "", way["ifs"], way["cfs"], setup.domains, kind))
            if len(setup.domains) > 1:
                found += [contrast(results, "", way["ifs"], way["cfs"], [one], kind) for one in setup.domains]
        found += [contrast(results, "", ways[a]["cfs"], ways[b]["cfs"], setup.domains, kind) for a, b in steps]
    return found


def _ours(setup: Setup, results: Results, ways: Mapping[Size, Mapping[str, Ways]]) -> dict[str, str]:
    ours = {}
    for size, way in ways.items():
        level = results.level("accuracy", setup.domains, **way["cfs"].labels)
        if level is not None:
            ours[f"e{size[0]}r{size[1]}"] = f"{interval(level, has_sign=False)} % of questions"
    middle = ways[_middle(setup)]
    compared = results.against(middle["ifs"].labels, middle["cfs"].labels, "accuracy", setup.domains)
    if compared is not None:
        ours["condition"] = f"{interval(compared)} points of accuracy"
    return ours


def _ways(setup: Setup) -> dict[Size, dict[str, Ways]]:
    return {
        (num_factors, r): {
            choice: Ways(
                f"{_told((num_factors, r))}, {label}",
                {"model": "mixlora", "on": "mix", "size": f"e{num_factors}r{r}", "choice": choice},
            )
            for choice, label in _CHOICES.items()
        }
        for num_factors, r in _sizes(setup)
    }


def _told(size: Size) -> str:
    return f"{size[1]} of {size[0]} factors"


def _sizes(setup: Setup) -> list[Size]:
    """Every r with the shared E, and every E with the shared r; the shared size once."""
    num_factors, r = _middle(setup)
    sizes = [*((num_factors, one) for one in _ranks(setup)), *((one, r) for one in _factors(setup))]
    return [*dict.fromkeys(sizes)]


def _middle(setup: Setup) -> Size:
    """The size that both lines share."""
    return setup.axis("shared_factors", int), setup.axis("shared_r", int)


def _ranks(setup: Setup) -> list[int]:
    return sorted(setup.axis("r", [int]))


def _factors(setup: Setup) -> list[int]:
    return sorted(setup.axis("factors", [int]))
