"""Which way of training has the lowest mean held-out loss, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_moe.compare.comparison import Comparison, by_seed, difference, shared_names
from llava_moe.compare.tables import against
from llava_moe.grid.cell import Cell
from llava_moe.grid.in_words import interval, shown
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways


@dataclass(frozen=True)
class Best:
    """The best way, and its best run.

    Attributes:
        sentence: that it is, by how much, and how sure.
        is_sure: whether the interval of its difference to the next lies on its side of 0.
    """

    way: Ways
    cell: Cell
    sentence: str
    is_sure: bool


def best_of(comparison: Comparison, results: Results) -> Best | None:
    """By the mean over domains and the seeds that all have; None where all have no seed, or no domain's records."""
    names = shared_names(results, comparison.ways, "loss", comparison.domains)
    values = {way.name: by_seed(results, way, "loss", names) for way in comparison.ways}
    there = {name: own for name, own in values.items() if own}
    if not names or not there:
        return None
    # Where runs are yet to be made, or failed, a way would be the best by an easy seed that others lack.
    shared = set.intersection(*map(set, there.values()))
    if not shared:
        return None
    means = {name: float(np.mean([own[seed] for seed in sorted(shared)])) for name, own in there.items()}
    order = sorted((way for way in comparison.ways if way.name in means), key=lambda way: means[way.name])
    best = order[0]
    seed = min(values[best.name], key=lambda one: values[best.name][one])
    cell = results.find(**best.labels)[seed]
    lack = "" if all(set(own) == shared for own in there.values()) else " of the seeds that all ways have"
    told = f"{best.name} has the lowest mean held-out loss{lack}, {shown('loss', means[best.name])} nats a token"
    if len(order) == 1:
        return Best(best, cell, f"{told}; there is no other way of training to hold it against yet.", False)
    other = order[1]
    told += f"; {other.name} is next with {shown('loss', means[other.name])}"
    # As the table of differences holds them against each other, where it does: one pair has one sign on a page.
    held = (best, other) if (best, other) in comparison.pairs() else (other, best)
    paired = difference(results, *held, "loss", names)
    if paired is None or paired.effect is None:
        return Best(best, cell, f"{told}. Of one seed there is no interval: how sure that is is not known.", False)
    over = (
        f"the difference, {against(*held)}, is {interval(paired)} over {len(paired.seeds)} seeds and the same records"
    )
    if not paired.effect.is_away_from_zero:
        return Best(best, cell, f"{told}. It may be chance: {over}; 0 lies in the interval.", False)
    if (paired.effect.value < 0) == (held[1] is best):
        return Best(best, cell, f"{told}. That is more than chance: {over}.", True)
    # Of more seeds than all have.
    return Best(best, cell, f"{told}. Over all seeds that these two have, it is the other way round: {over}.", False)
