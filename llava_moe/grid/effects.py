"""An effect of one way of training against another, paired over items and seeds, with an interval and a p value.

Both ways are measured on the same items with the same seeds. Two things were drawn, and either could have come out
otherwise: the seeds (which records, which start, which order) and the items. Their shares of the variance are added:

    R_s    = sum_g delta_sg / sum_g weight_g   of seed s over groups g of items: nats a token, or a share
    effect = mean_s R_s
    var    = var_seeds + var_items
    var_seeds = sum_s (R_s - effect)^2 / (S (S - 1))
    var_items = G / (G - 1) sum_g (mean_s delta_sg - effect weight_g)^2 / (sum_g weight_g)^2
    interval = effect -+ t * sqrt(var), t with Satterthwaite's degrees of freedom
        df = var^2 / (var_seeds^2 / (S - 1) + var_items^2 / (G - 1))

var_items is the variance of a ratio of sums (delta method), which is what a bootstrap over groups of items estimates,
too. What items and seeds do together is in both parts, so an interval is a little wide rather than narrow. Percentiles
of a bootstrap over seeds and items are too narrow: with five seeds they hold the truth in some 80 of 100 cases where
seeds decide, not in 95 (both in tests/grid/test_effects.py). A measure over several domains is the mean of theirs; each
has items of its own. Satterthwaite 1946; Cochran 1977, section 6.4 (ratios).

Shape suffixes: S seeds, G groups of items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.grid.student_t import quantile, two_sided

LEVEL = 0.95


@dataclass(frozen=True)
class Stratum:
    """The items of one domain.

    Attributes:
        deltas_SG: what one way has more than the other, summed over a group's items: nats, or right answers.
        weights_G: what the sums are divided by: supervised tokens, or questions.
    """

    deltas_SG: np.ndarray
    weights_G: np.ndarray

    def __post_init__(self) -> None:
        if self.deltas_SG.ndim != 2 or self.deltas_SG.shape[1:] != self.weights_G.shape:
            raise ValueError(f"deltas {self.deltas_SG.shape} and weights {self.weights_G.shape} do not fit")
        if len(self.weights_G) < 2 or len(self.deltas_SG) < 2:
            raise ValueError("an interval needs two seeds and two groups of items, or more")


@dataclass(frozen=True)
class Effect:
    """An effect with its interval of 95 % and the p value of "there is none", two-sided."""

    value: float
    low: float
    high: float
    p: float

    @property
    def is_away_from_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def effect_of(strata: Sequence[Stratum]) -> Effect:
    """The mean effect over strata; see the module.

    Raises:
        ValueError: no stratum, or strata of different seeds.
    """
    if len({len(stratum.deltas_SG) for stratum in strata}) != 1:
        raise ValueError("strata must have the same seeds, and there must be one")
    by_seed_S = np.mean([stratum.deltas_SG.sum(1) / stratum.weights_G.sum() for stratum in strata], axis=0)
    num_seeds = len(by_seed_S)
    value = float(by_seed_S.mean())
    var_seeds = float(by_seed_S.var(ddof=1)) / num_seeds
    parts = [item_variance(stratum) / len(strata) ** 2 for stratum in strata]
    variance = var_seeds + sum(parts)
    if variance == 0:
        return Effect(value, value, value, 1.0 if value == 0 else 0.0)
    spread = var_seeds**2 / (num_seeds - 1)
    spread += sum(part**2 / (len(stratum.weights_G) - 1) for part, stratum in zip(parts, strata, strict=True))
    df, error = variance**2 / spread, math.sqrt(variance)
    width = quantile(LEVEL, df) * error
    return Effect(value, value - width, value + width, two_sided(value / error, df))


def effect_over_seeds(deltas_S: np.ndarray) -> Effect:
    """The mean over seeds of what has no items, with Student's t: the module's formula with var_items = 0.

    Raises:
        ValueError: fewer than two seeds.
    """
    halves_S2 = np.stack([deltas_S / 2] * 2, axis=-1)
    return effect_of([Stratum(halves_S2, np.full(2, 0.5))])


def item_variance(stratum: Stratum) -> float:
    """Of a stratum's effect over draws of its groups; seeds stay."""
    num_groups, total = len(stratum.weights_G), stratum.weights_G.sum()
    mean_G = stratum.deltas_SG.mean(axis=0)
    apart_G = mean_G - mean_G.sum() / total * stratum.weights_G
    return float(num_groups / (num_groups - 1) * (apart_G**2).sum() / total**2)


def survives_holm(ps: Sequence[float], level: float = 1 - LEVEL) -> list[bool]:
    """Which of m effects stand at a family-wise error of ``level``: the k-th smallest p must be at most level/(m-k+1).

    Holm 1979: from the first that fails on, none stands.
    """
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    stands = [False] * len(ps)
    for number, place in enumerate(order):
        if ps[place] > level / (len(ps) - number):
            break
        stands[place] = True
    return stands
