"""What runs that were trained one after another still know: the accuracy matrix and four numbers of it.

Training t of T is the t-th run, part j what run j was trained on, ``R[t, j]`` the score on part j after training t.

Letters of shapes: R resamples, T trainings, which are also the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llava_moe.eval.results.bootstrap import Interval, interval_of

SUMMARIES = {
    "MFT": "mean score on each part right after its own training",
    "MFN": "mean score on all parts after the last training",
    "MAA": "mean over the trainings of the mean score on the parts trained by then",
    "BWT": "mean change on the earlier parts from right after their own training to the end",
}


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, if one is known."""

    value: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Forgetting:
    """The matrix and what is made of it.

    Attributes:
        scores: [T][T], ``scores[t][j]`` on part j after training t.
        changes: of each part but the last, ``R[T, j] - R[j, j]``: below zero is forgotten, of accuracies.
        summary: the four numbers; one that needs a score which is not there is missing.
    """

    scores: tuple[tuple[Estimate, ...], ...]
    changes: tuple[Estimate, ...]
    summary: Mapping[str, Estimate]


def summarize(scores_TT: np.ndarray) -> dict[str, np.ndarray]:
    """The four numbers, with T trainings:

    * ``MFT = 1/T sum_j R[j, j]``
    * ``MFN = 1/T sum_j R[T, j]``
    * ``MAA = 1/T sum_t (1/t sum_{j <= t} R[t, j])``
    * ``BWT = 1/(T-1) sum_{j < T} (R[T, j] - R[j, j])`` (Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 3)

    Args:
        scores_TT: float64 [..., T, T], T at least 2; NaN where there is no score, which makes NaN of what needs it.

    Returns:
        Each [...].

    Raises:
        ValueError: another shape.
    """
    num = scores_TT.shape[-1]
    if num < 2 or scores_TT.shape[-2] != num:
        raise ValueError(f"a matrix of two trainings or more, as many as parts, not {scores_TT.shape[-2:]}")
    own_T, last_T = np.diagonal(scores_TT, axis1=-2, axis2=-1), scores_TT[..., -1, :]
    by_then = np.stack([scores_TT[..., t, : t + 1].mean(axis=-1) for t in range(num)], axis=-1)
    return {
        "MFT": own_T.mean(axis=-1),
        "MFN": last_T.mean(axis=-1),
        "MAA": by_then.mean(axis=-1),
        "BWT": (last_T - own_T)[..., :-1].mean(axis=-1),
    }


def measure_forgetting(scores_TT: np.ndarray, resampled_RTT: np.ndarray | None = None) -> Forgetting:
    """The matrix with all that is made of it, and intervals where there are resamples.

    Args:
        scores_TT: float64 [T, T]; NaN where there is no score.
        resampled_RTT: float64 [R, T, T], the same scores on draws of the questions, one draw for all trainings, which
            is what pairs them; NaN where none is known.
    """

    def estimate(value: float, resampled_R: np.ndarray | None) -> Estimate:
        return Estimate(float(value), None if resampled_R is None else interval_of(resampled_R, float(value)))

    def at(row: int, column: int) -> np.ndarray | None:
        return None if resampled_RTT is None else resampled_RTT[:, row, column]

    num = len(scores_TT)
    scores = tuple(tuple(estimate(scores_TT[t, j], at(t, j)) for j in range(num)) for t in range(num))
    change_T = scores_TT[-1] - np.diagonal(scores_TT)
    resampled = None if resampled_RTT is None else summarize(resampled_RTT)
    changes = tuple(
        estimate(change_T[j], None if resampled_RTT is None else resampled_RTT[:, -1, j] - resampled_RTT[:, j, j])
        for j in range(num - 1)
    )
    summary = {
        name: estimate(float(value), None if resampled is None else resampled[name])
        for name, value in summarize(scores_TT).items()
        if not np.isnan(value)
    }
    return Forgetting(scores, changes, summary)
