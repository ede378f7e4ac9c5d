"""Paired bootstrap over clusters of questions: 95 % intervals of measures and of their differences between runs.

Questions about one image are not independent, so images (with all of their questions) are drawn, with replacement, as
many as there are; those that reach into the same domains are drawn among themselves, so that no domain runs empty. All
runs are measured on the same draw, which is what makes a difference paired. Efron and Tibshirani 1993, chapters 6 and
13 (percentile interval).

Letters of shapes: R resamples, N questions, G clusters, K terms of a statistic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.eval.results.score_matrix import ScoreMatrix
from llava_moe.eval.statistics import Statistic

NUM_RESAMPLES = 10_000
_CELLS_AT_ONCE = 4_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of resamples, widened to hold the estimate where it lies outside."""

    low: float
    high: float

    @property
    def is_away_from_zero(self) -> bool:
        """Whether 0 lies outside, by more than the rounding of sums."""
        return self.low > _ROUNDING or self.high < -_ROUNDING


def resample(
    statistics: Sequence[Statistic], sheet: ScoreMatrix, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[np.ndarray]:
    """Every statistic on the same resamples of clusters: float64 [R] each.

    Raises:
        ValueError: no resamples, or terms of another number of questions.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    if any(len(statistic.terms_NK) != len(sheet.ids) for statistic in statistics):
        raise ValueError(f"terms of {len(statistics[0].terms_NK)} questions for a sheet of {len(sheet.ids)}")
    widths = [statistic.terms_NK.shape[1] for statistic in statistics]
    if not widths:
        return []
    terms_GK = np.zeros((len(sheet.strata_G), sum(widths)))
    np.add.at(terms_GK, sheet.clusters_N, np.concatenate([statistic.terms_NK for statistic in statistics], axis=1))
    sums_RK = np.concatenate([counts_RG @ terms_GK for counts_RG in _draws(sheet.strata_G, num_resamples, seed)])
    parts = np.split(sums_RK, np.cumsum(widths)[:-1], axis=1)
    return [statistic.combine(part) for statistic, part in zip(statistics, parts, strict=True)]


def _draws(strata_G: np.ndarray, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn: float64 [r, G], r resamples at a time; each stratum keeps its size."""
    generator = np.random.default_rng(seed)
    strata = [np.flatnonzero(strata_G == stratum) for stratum in np.unique(strata_G)]
    at_once = max(1, _CELLS_AT_ONCE // max(1, len(strata_G)))
    for start in range(0, num_resamples, at_once):
        num = min(at_once, num_resamples - start)
        counts_RG = np.zeros((num, len(strata_G)))
        for places in strata:
            counts_RG[:, places] = generator.multinomial(len(places), np.full(len(places), 1 / len(places)), size=num)
        yield counts_RG


def interval_of(values_R: np.ndarray, estimate: float) -> Interval | None:
    """The percentile interval; None where a resample held no question that the measure is taken of."""
    if np.isnan(values_R).any() or np.isnan(estimate):
        return None
    low, high = np.percentile(values_R, [2.5, 97.5])
    return Interval(min(float(low), estimate), max(float(high), estimate))
