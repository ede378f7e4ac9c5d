"""Conditional MixLoRA, Fig. 2: the interference of domains that share a LoRA, by layer, of A and of B."""

from __future__ import annotations

from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.reproduce.build import Build, models_of
from llava_moe.reproduce.interference import (
    add_looked_at,
    compare_shares,
    facts_of,
    layer_matrices,
    layer_picture,
    matrices_of,
    matrix_picture,
    moments,
    notes_of,
    shares_table,
    told_shares,
)
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent

CHANCE = 0.025
"""The share of cells whose 95 % interval would lie below 0 if no step did anything to another domain."""


def cells(build: Build) -> None:
    """A LoRA of the mix for every seed, looked at early and at its end."""
    add_looked_at(build)


def answers_of(setup: Setup, results: Results) -> tuple[Contrast, ...]:
    """The share of cells surely below 0 against that of chance, early and at the end."""
    way, chance = _way(setup), Ways("chance", {})
    answers = []
    for moment in moments(setup):
        claim = f"at {moment.name}, more cells of {way.name} are surely below 0 than the {100 * CHANCE:.1f} % of chance"
        compared = compare_shares(CHANCE, matrices_of(results, way, moment), "surely negative")
        ours = Ways(f"{way.name}, {moment.name}", way.labels)
        answers.append(Contrast(claim, chance, ours, "surely negative", setup.domains, "worse", compared, None, None))
    return tuple(answers)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Matrices by layer and side at both moments; whether more cells are surely below 0 than chance has."""
    way = _way(setup)
    found = {moment.name: matrices_of(results, way, moment) for moment in moments(setup)}
    found = {name: by_seed for name, by_seed in found.items() if by_seed}
    caption = "Cells below 0 by layer, of A and of B: lines are means, dots are seeds."
    pictures = [layer_picture("shares", found, caption)] if found else []
    for number, (name, by_seed) in enumerate(found.items()):
        caption = f"Ratio of means by layer and side at {name}: medians over the layer's linears and seeds."
        pictures.append(matrix_picture(f"layers_{number}", layer_matrices(by_seed), setup.domains, caption))
    return FigureContent(
        answers=answers_of(setup, results),
        pictures=tuple(pictures),
        tables=(shares_table(found),),
        ways=(way,),
        ours={"negative": told_shares(found)} if found else {},
        facts={name: facts_of(by_seed) for name, by_seed in found.items()},
        notes=(
            *notes_of(setup),
            "The intervals of single cells are the instrument's, over records; if no step did anything to another "
            "domain, 2.5 % of them would lie below 0.",
        ),
    )


def _way(setup: Setup) -> Ways:
    (model, told), *_ = models_of(setup).items()
    return Ways(told["label"], {"model": model, "on": "mix"})
