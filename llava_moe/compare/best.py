"""Which way of training has the lowest mean held-out loss, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_moe.compare.comparison import Comparison, by_seed, difference, shared_names
from llava_moe.grid.cell import Cell
from llava_moe.reproduce.results import Results
from llava_moe.reproduce.sheet import Ways, interval, shown


@dataclass(frozen=True)
class Best:
    """The best way, and its best run.

    Attributes:
        sentence: that it is, by how much, and how sure.
        is_sure: whether the interval of its difference to the next lies below 0.
    """

    way: Ways
    cell: Cell
    sentence: str
    is_sure: bool


def best_of(comparison: Comparison, results: Results) -> Best | None:
    """By the mean over domains and seeds; None where no loss of all ways is known on the same records."""
    names = shared_names(results, comparison.ways, "loss", comparison.domains)
    values = {way.name: by_seed(results, way, "loss", names) for way in comparison.ways}
    means = {name: float(np.mean([*own.values()])) for name, own in values.items() if own}
    if not names or not means:
        return None
    order = sorted((way for way in comparison.ways if way.name in means), key=lambda way: means[way.name])
    best = order[0]
    seed = min(values[best.name], key=lambda one: values[best.name][one])
    cell = results.find(**best.labels)[seed]
    told = f"{best.name} has the lowest mean held-out loss, {shown('loss', means[best.name])} nats a token"
    if len(order) == 1:
        return Best(best, cell, f"{told}; there is no other way of training to hold it against yet.", False)
    other = order[1]
    told += f"; {other.name} is next with {shown('loss', means[other.name])}"
    paired = difference(results, other, best, "loss", names)
    if paired is None:
        return Best(best, cell, f"{told}. They share no seed, so how sure that is is not known.", False)
    if paired.effect is None:
        return Best(best, cell, f"{told}. Of one seed there is no interval: how sure that is is not known.", False)
    over = f"difference {interval(paired)} over {len(paired.seeds)} seeds and the same records"
    if paired.effect.high < 0:
        return Best(best, cell, f"{told}. That is more than chance: {over}.", True)
    return Best(best, cell, f"{told}. It may be chance: {over}, which holds no difference, too.", False)
