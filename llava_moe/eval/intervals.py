"""95 % intervals of shares and of paired differences, by formula.

They count questions as independent. Questions about the same image, or about slices of one volume, are not, so the
true interval is wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llava_moe.eval.benchmark import Measure

Z_95 = 1.959963984540054


def mean_of(scores: Sequence[float]) -> Measure:
    """The mean of scores in 0..1, with Wilson's interval where every score is 0 or 1 and none otherwise.

    Wilson's score interval with ``p`` the share and ``n`` the count: ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) /
    (1 + z^2/n)``.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("a mean needs at least one score")
    num, share = len(scores), sum(scores) / len(scores)
    if any(score not in (0.0, 1.0) for score in scores):
        return Measure(value=share, num_questions=num)
    spread = Z_95 * math.sqrt(share * (1 - share) / num + Z_95**2 / (4 * num**2))
    center, scale = share + Z_95**2 / (2 * num), 1 + Z_95**2 / num
    # At a share of 0 or 1 the edge is the share itself; rounding must not put it on the wrong side.
    low, high = (center - spread) / scale, (center + spread) / scale
    return Measure(share, num, low=max(0.0, min(share, low)), high=min(1.0, max(share, high)))


def paired_difference(scores: Sequence[float], others: Sequence[float]) -> Measure:
    """Mean of ``scores[i] - others[i]`` with the normal interval of paired differences.

    Raises:
        ValueError: the lengths differ or are zero.
    """
    if not scores or len(scores) != len(others):
        raise ValueError(f"paired scores of lengths {len(scores)} and {len(others)}")
    differences = [score - other for score, other in zip(scores, others, strict=True)]
    num, mean = len(differences), sum(differences) / len(differences)
    if num == 1:
        return Measure(mean, num)
    variance = sum((difference - mean) ** 2 for difference in differences) / (num - 1)
    spread = Z_95 * math.sqrt(variance / num)
    return Measure(mean, num, low=max(-1.0, mean - spread), high=min(1.0, mean + spread))
