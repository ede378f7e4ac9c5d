"""Transfer measured: how far training on one domain alone lowers the held-out loss of another.

With L_x the loss of held-out record x before, and L_x(j, s) after a short training on domain j with seed s,

    fall           T[i, j] = mean over seeds s and records x of i of L_x - L_x(j, s)      in nats per supervised token
    share of own   S[i, j] = T[i, j] / T[i, i]                                            NaN in a row with T[i, i] <= 0

Above 0 the training on j helped i, below 0 it harmed: the sign and the place (row affected, column updating) of the
gradient interference matrices, which it is compared with.

Letters of shapes: N records, D domains, S seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llava_moe.analyze.gradients import summed
from llava_moe.analyze.interference import (
    cosines_of_records,
    first_order_effects,
    interval,
    measure,
    measure_cosines,
    resamples,
)
from llava_moe.analyze.parts import Part
from llava_moe.analyze.rank_correlation import RankCorrelation, correlate

FALL, SHARE = "fall", "share_of_own"
COMPARED_WITH = {
    "effect": FALL,
    "pairwise_cosine": FALL,
    "direction_cosine": FALL,
    "ratio_of_means": SHARE,
    "mean_of_ratios": SHARE,
}
"""Measure of gradient interference -> what of the transfer it speaks of: sizes of sizes, ratios of ratios."""
PROJECTOR_SIDE = "projector"
EVERYTHING, ADAPTER = "all that trains", "adapter"


@dataclass(frozen=True)
class Transfer:
    """What was measured; ``values`` [D, D], ``drawn`` [R, D, D] and ``intervals`` [D, D, 2] of fall and share of own.

    Attributes:
        counts_RN: how often each resample draws each record.
    """

    values: Mapping[str, np.ndarray]
    drawn: Mapping[str, np.ndarray]
    intervals: Mapping[str, np.ndarray]
    counts_RN: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """The rank correlation of the transfer with one matrix of gradient interference.

    Attributes:
        parameters: whose gradients: ``all that trains``, ``adapter``, or one side of it.
        measured: the matrix, a key of ``COMPARED_WITH``.
        matrix_DD: its values.
    """

    parameters: str
    measured: str
    matrix_DD: np.ndarray
    correlation: RankCorrelation

    @property
    def against(self) -> str:
        """Of the transfer: ``fall`` or ``share_of_own``."""
        return COMPARED_WITH[self.measured]


def measure_transfer(falls_SDN: np.ndarray, group_N: np.ndarray, num_resamples: int, seed: int) -> Transfer:
    """T and S of the falls of each record by each training, with intervals over records and, of several, seeds.

    Args:
        falls_SDN: nats, [seed, domain trained on, record].
    """
    num_seeds = len(falls_SDN)
    counts_RN = resamples(group_N, num_resamples, seed)
    generator = np.random.default_rng([seed, num_seeds])
    weights_RS = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples) / num_seeds
    fall_DD = _mean_by_group(falls_SDN.mean(0), group_N, np.ones((1, len(group_N))))[0]
    by_seed_SRDD = np.stack([_mean_by_group(falls_DN, group_N, counts_RN) for falls_DN in falls_SDN])
    fall_RDD = np.einsum("rs,srij->rij", weights_RS, by_seed_SRDD)
    values, drawn = {FALL: fall_DD, SHARE: _share(fall_DD)}, {FALL: fall_RDD, SHARE: _share(fall_RDD)}
    return Transfer(values, drawn, {name: interval(drawn[name], values[name]) for name in values}, counts_RN)


def compare(
    transfer: Transfer, grams: Mapping[Part, np.ndarray], group_N: np.ndarray, seed: int
) -> tuple[Comparison, ...]:
    """The transfer beside each first-order matrix of the same records, of all parameters and of each kind of them."""
    found = []
    for name, places in _kinds(tuple(grams)).items():
        gram_NN = summed(grams, places)
        effects_NN, cosines_NN = first_order_effects(gram_NN), cosines_of_records(gram_NN)
        one = vars(measure(effects_NN, group_N)) | _cosines(cosines_NN, group_N)
        many = vars(measure(effects_NN, group_N, transfer.counts_RN)) | _cosines(
            cosines_NN, group_N, transfer.counts_RN
        )
        for measured, against in COMPARED_WITH.items():
            correlation = correlate(
                transfer.values[against], one[measured], transfer.drawn[against], many[measured], seed
            )
            found.append(Comparison(name, measured, one[measured], correlation))
    return tuple(found)


def _cosines(cosines_NN: np.ndarray, group_N: np.ndarray, counts_RN: np.ndarray | None = None) -> dict[str, np.ndarray]:
    measured = measure_cosines(cosines_NN, group_N, counts_RN)
    return {f"{name}_cosine": values for name, values in vars(measured).items()}


def _kinds(parts: tuple[Part, ...]) -> dict[str, list[int]]:
    """Which parameters are taken together, by name; none twice under two names."""
    of_adapter = [place for place, part in enumerate(parts) if part.side != PROJECTOR_SIDE]
    kinds = {EVERYTHING: list(range(len(parts))), ADAPTER: of_adapter}
    for place, part in enumerate(parts):
        kinds.setdefault(part.side, []).append(place)
    distinct: dict[str, list[int]] = {}
    for name, places in kinds.items():
        if places and places not in distinct.values():
            distinct[name] = places
    return distinct


def _mean_by_group(falls_DN: np.ndarray, group_N: np.ndarray, counts_RN: np.ndarray) -> np.ndarray:
    """[R, affected, updating]."""
    member_DN = (np.arange(group_N.max() + 1)[:, None] == group_N).astype(float)
    weights_RDN = counts_RN[:, None] * member_DN
    means_RDD: np.ndarray = (weights_RDN @ falls_DN.T) / weights_RDN.sum(-1, keepdims=True)
    return means_RDD


def _share(fall: np.ndarray) -> np.ndarray:
    own = np.diagonal(fall, axis1=-2, axis2=-1)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(own > 0, fall / own, np.nan)
