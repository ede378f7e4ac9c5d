"""Spearman's rank correlation of two matrices over their pairs of different domains, and how sure it is.

    rho = Pearson's correlation of the ranks of A[i, j] and of B[i, j], over all i != j; ties share their mean rank

Two measures of doubt, of two kinds. The interval is a percentile bootstrap over the held-out records (and the seeds):
what other records would give **for these domains**. The relabeling test (Mantel 1967) asks how often as large a rho
comes of renaming the domains of one matrix: D domains have D! namings, so three domains reach no p below 1/6.

Letters of shapes: D domains, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

MOST_NAMINGS = 5040
"""Of all namings so many are tried at most; of more, so many are drawn."""
FEWEST_PAIRS = 3
_MOST_COMPARED = 10_000_000


@dataclass(frozen=True)
class RankCorrelation:
    """How the ranks of two matrices agree.

    Attributes:
        rho: in [-1, 1]; NaN where fewer than three pairs are known or one matrix does not vary.
        low, high: the middle 95 % of the resamples, widened to hold rho; NaN where it is not defined in all of them.
        same_sign: share of pairs in which both are on one side of 0.
        num_pairs: ordered pairs of different domains that both matrices know.
        p: share of namings of the domains with a rho at least as large, the true one included; of ``num_namings``.
    """

    rho: float
    low: float
    high: float
    same_sign: float
    num_pairs: int
    p: float
    num_namings: int


def ranks_of(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis; ties share the mean of theirs."""
    flat = values.reshape(-1, values.shape[-1])
    at_once = max(1, _MOST_COMPARED // max(1, values.shape[-1] ** 2))
    chunks = [_ranks_of_rows(flat[start : start + at_once]) for start in range(0, len(flat), at_once)]
    return np.concatenate(chunks).reshape(values.shape)


def _ranks_of_rows(values: np.ndarray) -> np.ndarray:
    is_below, is_equal = (compare(values[:, None, :], values[:, :, None]) for compare in (np.less, np.equal))
    ranks: np.ndarray = is_below.sum(-1) + (is_equal.sum(-1) + 1) / 2
    return ranks


def spearman(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """rho along the last axis; NaN where one side does not vary or holds what is no number."""
    is_known = np.isfinite(left).all(-1) & np.isfinite(right).all(-1)
    ranks = [ranks_of(np.nan_to_num(one)) for one in (left, right)]
    left_ranks, right_ranks = (one - one.mean(-1, keepdims=True) for one in ranks)
    scale = np.sqrt((left_ranks**2).sum(-1) * (right_ranks**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (left_ranks * right_ranks).sum(-1) / scale
    return np.where(is_known & (scale > 0), np.clip(rho, -1, 1), np.nan)


def correlate(
    left_DD: np.ndarray, right_DD: np.ndarray, left_RDD: np.ndarray, right_RDD: np.ndarray, seed: int
) -> RankCorrelation:
    """Compare two matrices and their resamples, drawn together, over the pairs that both know.

    Args:
        seed: of the namings that are drawn, where there are too many to try all.
    """
    is_pair_DD = ~np.eye(len(left_DD), dtype=bool) & np.isfinite(left_DD) & np.isfinite(right_DD)
    left, right = left_DD[is_pair_DD], right_DD[is_pair_DD]
    num_pairs = len(left)
    same_sign = float((np.sign(left) == np.sign(right)).mean()) if num_pairs else math.nan
    rho = float(spearman(left, right)) if num_pairs >= FEWEST_PAIRS else math.nan
    if math.isnan(rho):
        return RankCorrelation(rho, math.nan, math.nan, same_sign, num_pairs, math.nan, 0)
    drawn_R = spearman(left_RDD[:, is_pair_DD], right_RDD[:, is_pair_DD])
    low = high = math.nan
    if np.isfinite(drawn_R).all():
        low, high = np.percentile(drawn_R, [2.5, 97.5]).tolist()
        low, high = min(low, rho), max(high, rho)
    p, num_namings = math.nan, 0
    # A naming would bring in pairs that only one of the matrices knows.
    if num_pairs == len(left_DD) * (len(left_DD) - 1):
        p, num_namings = _relabeled(left_DD, right_DD, rho, seed)
    return RankCorrelation(rho, low, high, same_sign, num_pairs, p, num_namings)


def _relabeled(left_DD: np.ndarray, right_DD: np.ndarray, rho: float, seed: int) -> tuple[float, int]:
    # A naming moves ranks about and changes none, so that each is a sum of products.
    left_DD, right_DD = _centered_ranks(left_DD), _centered_ranks(right_DD)
    scale = math.sqrt(float((left_DD**2).sum() * (right_DD**2).sum()))
    namings = _namings(len(left_DD), seed)
    rhos = [float((left_DD * right_DD[np.ix_(order, order)]).sum()) / scale for order in namings]
    # The margin: the same products summed in another order differ in their last bit.
    return float(np.mean(np.array(rhos) >= rho - 1e-12)), len(rhos)


def _centered_ranks(values_DD: np.ndarray) -> np.ndarray:
    """Ranks off the diagonal, less their mean; 0 on it."""
    is_off_DD = ~np.eye(len(values_DD), dtype=bool)
    ranks = ranks_of(values_DD[is_off_DD])
    ranks_DD = np.zeros_like(values_DD)
    ranks_DD[is_off_DD] = ranks - ranks.mean()
    return ranks_DD


def _namings(num_domains: int, seed: int) -> Iterator[tuple[int, ...]]:
    """All orders of the domains, or the true one and drawn ones."""
    if math.factorial(num_domains) <= MOST_NAMINGS:
        yield from permutations(range(num_domains))
        return
    generator = np.random.default_rng(seed)
    yield tuple(range(num_domains))
    for _ in range(MOST_NAMINGS - 1):
        yield tuple(generator.permutation(num_domains).tolist())
