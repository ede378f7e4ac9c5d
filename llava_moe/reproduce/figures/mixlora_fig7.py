"""Conditional MixLoRA, Fig. 7: the interference of domains in a LoRA and in MixLoRA with as many factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llava_moe.grid.in_words import MEASURES
from llava_moe.grid.measured import KINDS
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.build import Build, models_of
from llava_moe.reproduce.interference import (
    Matrices,
    Moment,
    Share,
    add_looked_at,
    compare_shares,
    facts_of,
    layer_picture,
    matrices_of,
    matrix_picture,
    moments,
    notes_of,
    shares_table,
    side_matrices,
    told_shares,
)
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast


def cells(build: Build) -> None:
    """Both models of the mix for every seed, looked at early and at the end."""
    add_looked_at(build)


def answers_of(setup: Setup, results: Results, kind: Share = "negative") -> tuple[Contrast, ...]:
    """MixLoRA's share of such cells against the LoRA's, early and at the end."""
    lora, mixlora = _ways(setup)
    return tuple(_contrast(setup, results, lora, mixlora, moment, kind) for moment in moments(setup))


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Both models' matrices at both moments; whether MixLoRA has fewer cells below 0."""
    lora, mixlora = _ways(setup)
    pictures: list[Picture] = []
    named: dict[str, Mapping[int, Matrices]] = {}
    for number, moment in enumerate(moments(setup)):
        found = {way.name: matrices_of(results, way, moment) for way in (lora, mixlora)}
        found = {name: by_seed for name, by_seed in found.items() if by_seed}
        named |= {f"{name}, {moment.name}": by_seed for name, by_seed in found.items()}
        if not found:
            continue
        caption = f"Cells below 0 by layer at {moment.name}, of A and of B: lines are means, dots are seeds."
        pictures.append(layer_picture(f"shares_{number}", found, caption))
        panels = {title: one for name, of in found.items() for title, one in side_matrices(of, name).items()}
        caption = f"Ratio of means of all linears at {moment.name}: medians over seeds."
        pictures.append(matrix_picture(f"matrices_{number}", panels, setup.domains, caption))
    more = [contrast(results, "", lora, mixlora, setup.domains, kind) for kind in KINDS]
    return FigureContent(
        answers=answers_of(setup, results),
        pictures=tuple(pictures),
        tables=(shares_table(named),),
        contrasts=(*answers_of(setup, results, "surely negative"), *more),
        ways=(lora, mixlora),
        ours={"fewer": told_shares(named)} if named else {},
        facts={name: facts_of(by_seed) for name, by_seed in named.items()},
        notes=(
            *notes_of(setup),
            "A LoRA of rank 16 and 16 factors are as many values of A and B; MixLoRA's routers come on top, and their "
            "own gradients are in no cell.",
            "A factor is moved by the records that choose it alone, so that cells of MixLoRA may be nearer to 0 on "
            "both sides: the table tells those above 0, too.",
        ),
    )


def _ways(setup: Setup) -> tuple[Ways, Ways]:
    """The LoRA and MixLoRA, in the yaml's order."""
    lora, mixlora = (Ways(told["label"], {"model": name, "on": "mix"}) for name, told in models_of(setup).items())
    return lora, mixlora


def _contrast(setup: Setup, results: Results, lora: Ways, mixlora: Ways, moment: Moment, kind: Share) -> Contrast:
    """MixLoRA against the LoRA at a moment; parameters and operations as their sizes tell."""
    claim = f"at {moment.name}, {mixlora.name} has fewer {MEASURES[kind]} than {lora.name}"
    before, after = (Ways(f"{way.name}, {moment.name}", way.labels) for way in (lora, mixlora))
    sized = contrast(results, claim, before, after, setup.domains)
    compared = compare_shares(matrices_of(results, lora, moment), matrices_of(results, mixlora, moment), kind)
    return replace(sized, kind=kind, expected="better", compared=compared)
