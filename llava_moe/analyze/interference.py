"""Task interference from the effects that records have on each other (MixLoRA, arXiv 2402.15896, eq. 2-3).

The effect of record y on record x is the fall of x's loss by a step along y's normalised gradient:

    exact         D(x, y) = L_x(theta) - L_x(theta - step * g_y / |g_y|)
    first order   D(x, y) = step * g_x . g_y / |g_y|

and with D_j(x) the mean over the records y of domain j, x itself left out,

    mean of ratios   I[i, j] = mean over x in i of D_j(x) / D_i(x)         (eq. 3)
    ratio of means   R[i, j] = mean over x in i of D_j(x) / mean over x in i of D_i(x)

Both have 1 on the diagonal, and the step's length cancels from the first order. A record's own gradient never counts
among those that move it: it would make every domain look more coherent than fresh records find it.

Letters of shapes: N records, D domains, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SMALLEST_SHARE = 0.05
"""Records of which D_i(x) is below this share of the mean |D_i| of their domain are left out of the mean of ratios."""
MOST_UNDEFINED = 0.01
_RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True)
class Measures:
    """What is told of one set of parameters; each entry float64 [..., D, D], NaN where it is not defined.

    Attributes:
        ratio_of_means: R. NaN in the rows of a domain that its own steps do not help.
        mean_of_ratios: I, of the records with a sizeable D_i(x).
        effect: mean over x in i of D_j(x), the numerator of R: what the ratio divides away.
    """

    ratio_of_means: np.ndarray
    mean_of_ratios: np.ndarray
    effect: np.ndarray


@dataclass(frozen=True)
class Cosines:
    """Angles between records' gradients and between domains; float64 [..., D, D].

    Attributes:
        pairwise: mean cosine over pairs of different records; its diagonal says how much a domain's records agree.
        direction: cosine of the domains' mean unit gradients, estimated from pairs of different records:
            ``pairwise[i, j] / sqrt(pairwise[i, i] * pairwise[j, j])``; sampling may carry it beyond 1.
    """

    pairwise: np.ndarray
    direction: np.ndarray


def first_order_effects(gram_NN: np.ndarray) -> np.ndarray:
    """D(x, y) for a step of length 1, [N, N], from the products of records' gradients; 0 where y has no gradient."""
    norms_N = np.sqrt(np.diagonal(gram_NN))
    return np.divide(gram_NN, norms_N, out=np.zeros_like(gram_NN), where=norms_N > 0)


def cosines_of_records(gram_NN: np.ndarray) -> np.ndarray:
    """The cosine of every two records' gradients, [N, N]; NaN beside a record without a gradient."""
    norms_N = np.sqrt(np.diagonal(gram_NN))
    with np.errstate(invalid="ignore", divide="ignore"):
        return gram_NN / np.outer(norms_N, norms_N)


def measure(effects_NN: np.ndarray, group_N: np.ndarray, counts_RN: np.ndarray | None = None) -> Measures:
    """I, R and the mean effects, of the records as they are or, with ``counts_RN``, of each resample of them."""
    counts_RN = np.ones((1, len(group_N))) if counts_RN is None else counts_RN
    parts = [_measure(effects_NN, group_N, chunk) for chunk in _chunks(counts_RN)]
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])]
    return Measures(*(values[0] if len(counts_RN) == 1 else values for values in joined))


def measure_cosines(cosines_NN: np.ndarray, group_N: np.ndarray, counts_RN: np.ndarray | None = None) -> Cosines:
    """Mean cosines over pairs of different records, of all records or of each resample."""
    counts_RN = np.ones((1, len(group_N))) if counts_RN is None else counts_RN
    is_known_NN = np.isfinite(cosines_NN) & ~np.eye(len(group_N), dtype=bool)
    values_NN, is_known_NN = np.where(is_known_NN, cosines_NN, 0.0), is_known_NN.astype(float)
    pairwise_RDD = np.full((len(counts_RN), *[group_N.max() + 1] * 2), np.nan)
    for i, rows in enumerate(_places(group_N)):
        for j, columns in enumerate(_places(group_N)):
            left_RN, right_RN, block = counts_RN[:, rows], counts_RN[:, columns], np.ix_(rows, columns)
            sums_R = ((left_RN @ values_NN[block]) * right_RN).sum(-1)
            pairwise_RDD[:, i, j] = _divided(sums_R, ((left_RN @ is_known_NN[block]) * right_RN).sum(-1))
    own_RD = np.diagonal(pairwise_RDD, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        scale_RDD = np.sqrt(np.where(own_RD > 0, own_RD, np.nan))
        direction_RDD = pairwise_RDD / (scale_RDD[:, :, None] * scale_RDD[:, None, :])
    if len(counts_RN) == 1:
        return Cosines(pairwise_RDD[0], direction_RDD[0])
    return Cosines(pairwise_RDD, direction_RDD)


def resamples(group_N: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """How often each record is drawn, float64 [R, N]: each domain's records with replacement, as many as there are.

    The percentile bootstrap of Efron and Tibshirani 1993, chapter 13; every matrix is measured on the same draws.
    """
    generator = np.random.default_rng(seed)
    counts_RN = np.zeros((num_resamples, len(group_N)))
    for group in np.unique(group_N):
        places = np.flatnonzero(group_N == group)
        even = np.full(len(places), 1 / len(places))
        counts_RN[:, places] = generator.multinomial(len(places), even, size=num_resamples)
    return counts_RN


def interval(values_RDD: np.ndarray, estimate_DD: np.ndarray) -> np.ndarray:
    """The middle 95 % of the resamples, [D, D, 2], widened to hold the estimate.

    NaN where more than ``MOST_UNDEFINED`` of the resamples have no value: an own effect that may be 0 bounds no ratio.
    """
    share_DD = (~np.isfinite(values_RDD)).mean(0)
    known_RDD = np.where(share_DD > MOST_UNDEFINED, 0.0, values_RDD)
    low_DD, high_DD = np.nanpercentile(known_RDD, [2.5, 97.5], axis=0)
    ends_DD2 = np.stack([np.minimum(low_DD, estimate_DD), np.maximum(high_DD, estimate_DD)], -1)
    is_bounded_DD = (share_DD <= MOST_UNDEFINED) & np.isfinite(estimate_DD)
    return np.where(is_bounded_DD[..., None], ends_DD2, np.nan)


def _measure(effects_NN: np.ndarray, group_N: np.ndarray, counts_RN: np.ndarray) -> Measures:
    groups = _places(group_N)
    by_record_RDN = np.stack([_mean_effect(effects_NN, places, counts_RN) for places in groups], 1)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for i, places in enumerate(groups):
        weights_Rn, values_RDn = counts_RN[:, places], by_record_RDN[:, :, places]
        own_Rn = values_RDn[:, i]
        effect_RD = _mean_over_records(weights_Rn, values_RDn)
        help_R = np.where(effect_RD[:, i] > 0, effect_RD[:, i], np.nan)
        size_R = (weights_Rn * np.abs(np.nan_to_num(own_Rn))).sum(-1) / weights_Rn.sum(-1)
        is_sizeable_Rn = np.abs(np.nan_to_num(own_Rn)) > SMALLEST_SHARE * size_R[:, None]
        ratios_RDn = _divided(values_RDn, np.where(is_sizeable_Rn, own_Rn, np.nan)[:, None])
        ratio_RD = _mean_over_records(weights_Rn * is_sizeable_Rn, ratios_RDn)
        rows.append((_divided(effect_RD, help_R[:, None]), ratio_RD, effect_RD))
    return Measures(*(np.stack(matrices, 1) for matrices in zip(*rows, strict=True)))


def _mean_effect(effects_NN: np.ndarray, places: np.ndarray, counts_RN: np.ndarray) -> np.ndarray:
    """D_j(x), [R, N]: the mean effect of the drawn records at ``places`` on every record, its own step left out."""
    others_NN = effects_NN.copy()
    np.fill_diagonal(others_NN, 0)
    num_others_RN = np.full(counts_RN.shape, float(len(places)))
    num_others_RN[:, places] -= counts_RN[:, places]
    return _divided(counts_RN[:, places] @ others_NN[:, places].T, num_others_RN)


def _mean_over_records(weights_Rn: np.ndarray, values_RDn: np.ndarray) -> np.ndarray:
    """The weighted mean over a group's records, [R, D]; NaN where a record that counts has no value."""
    is_counted_R1n = (weights_Rn > 0)[:, None]
    sums_RD = (weights_Rn[:, None] * np.where(is_counted_R1n, values_RDn, 0.0)).sum(-1)
    return _divided(sums_RD, weights_Rn.sum(-1)[:, None])


def _places(group_N: np.ndarray) -> list[np.ndarray]:
    """The records of each group."""
    return [np.flatnonzero(group_N == group) for group in range(group_N.max() + 1)]


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below == 0, np.nan, above / below)


def _chunks(counts_RN: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(counts_RN), _RESAMPLES_AT_ONCE):
        yield counts_RN[start : start + _RESAMPLES_AT_ONCE]
