"""How a benchmark's measures come from sums over questions, so that they can be taken of any draw of questions.

Each measure is ``combine(sum over questions of terms)``: a mean is ``(s, n) -> s / n``, F1 comes from counts, MME's
score from four sums a subtask. A sum can be taken over resampled questions at the price of a matrix product.

Letters of shapes: N questions, K terms of a statistic.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llava_moe.eval.benchmark import ALL_DOMAINS
from llava_moe.eval.metrics.mme import MME_COGNITION, MME_PERCEPTION
from llava_moe.eval.results.score_matrix import ScoreMatrix

TOLERANCE = 1e-6
Scores = Mapping[str, np.ndarray]
Combine = Callable[[np.ndarray], np.ndarray]
"""Sums [..., K] to values [...]; NaN where there is nothing to take the measure of."""


@dataclass(frozen=True)
class Statistic:
    """``combine`` of the sums of ``terms_NK`` (float64) over questions."""

    terms_NK: np.ndarray
    combine: Combine

    def value(self) -> float:
        """Over all questions."""
        return float(self.combine(self.terms_NK.sum(axis=0)))

    @property
    def num_questions(self) -> int:
        """Questions, or groups of them, that take part."""
        return int((self.terms_NK != 0).any(axis=1).sum())


def find_statistics(
    name: str, domain: str, sheet: ScoreMatrix, scores: Scores, expected: float
) -> dict[int, Statistic]:
    """The statistics that give the measure's published value, by form; empty where none known here does.

    A measure that this module has no terms for is thus shown as its benchmark computed it, without an interval. Few
    answers may fit several forms; what is compared must be of one form.

    Args:
        name: the measure.
        domain: the row that it stands in.
        expected: what the benchmark itself made of the same answers.
    """
    return {
        form: statistic
        for form, statistic in enumerate(_candidates(name, domain, sheet, scores))
        if abs(statistic.value() - expected) <= TOLERANCE * max(1.0, abs(expected))
    }


def find_statistic(name: str, domain: str, sheet: ScoreMatrix, scores: Scores, expected: float) -> Statistic | None:
    """The likeliest of :func:`find_statistics`."""
    return next(iter(find_statistics(name, domain, sheet, scores, expected).values()), None)


def statistic_of(form: int, name: str, domain: str, sheet: ScoreMatrix, scores: Scores) -> Statistic | None:
    """The same statistic of other answers; None where their scores lack what it is made of."""
    return next(itertools.islice(_candidates(name, domain, sheet, scores), form, None), None)


def _candidates(name: str, domain: str, sheet: ScoreMatrix, scores: Scores) -> Iterator[Statistic]:
    inside_N = sheet.inside(domain)
    if name in scores:
        yield Statistic(_mean_terms(scores[name], inside_N), ratio)
        if domain == ALL_DOMAINS:
            # POPE's sets count alike whatever their sizes.
            num_parts = len(set(sheet.domains))
            yield _over_parts(sheet, lambda part_N: _mean_terms(scores[name], part_N), ratio, 1 / num_parts)
    if name == "mmbench_circular" and "mmbench_rotation_accuracy" in scores:
        yield Statistic(_group_terms(scores["mmbench_rotation_accuracy"], sheet, inside_N), ratio)
    if name == "tiny_lvlm_overall" and "tiny_lvlm_word_match" in scores:
        yield _over_parts(sheet, lambda part_N: _mean_terms(scores["tiny_lvlm_word_match"], part_N), ratio, 100.0)
    if name in ("mme_score", "mme_perception_score", "mme_cognition_score") and "mme_accuracy" in scores:
        yield _mme(name, domain, sheet, scores["mme_accuracy"])
    prefix, _, kind = name.partition("_")
    if kind in YES_NO and f"{prefix}_accuracy" in scores:
        terms_NK = _yes_no_terms(prefix, sheet, scores)
        if domain == ALL_DOMAINS:
            num_parts = len(set(sheet.domains))
            yield _over_parts(sheet, lambda part_N: terms_NK * part_N[:, None], YES_NO[kind], 1 / num_parts)
        yield Statistic(terms_NK * inside_N[:, None], YES_NO[kind])


def ratio(sums: np.ndarray) -> np.ndarray:
    """``s_0 / s_1``; NaN for 0 / 0."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)


def _or_zero(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _f1(sums: np.ndarray) -> np.ndarray:
    return _or_zero(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


# Terms: said yes and is yes, said yes, is yes, any. A ratio without a denominator is 0, as in POPE's own numbers.
YES_NO: Mapping[str, Combine] = {
    "precision": lambda sums: _or_zero(sums[..., 0], sums[..., 1]),
    "recall": lambda sums: _or_zero(sums[..., 0], sums[..., 2]),
    "f1": _f1,
    "yes_ratio": lambda sums: _or_zero(sums[..., 1], sums[..., 3]),
}


def _mean_terms(scores_N: np.ndarray, inside_N: np.ndarray) -> np.ndarray:
    counted_N = inside_N & ~np.isnan(scores_N)
    return np.stack([np.where(counted_N, scores_N, 0.0), counted_N.astype(np.float64)], axis=1)


def _group_terms(scores_N: np.ndarray, sheet: ScoreMatrix, inside_N: np.ndarray) -> np.ndarray:
    """Whether all of a group is right, and 1, at the group's first question; a group lies in one domain."""
    lowest: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], int] = {}
    for place in np.flatnonzero(inside_N & ~np.isnan(scores_N)).tolist():
        key = (sheet.domains[place], sheet.groups[place])
        first.setdefault(key, place)
        lowest[key] = min(lowest.get(key, 1.0), float(scores_N[place]))
    terms_NK = np.zeros((len(scores_N), 2))
    for key, place in first.items():
        terms_NK[place] = (float(lowest[key] == 1.0), 1.0)
    return terms_NK


def _over_parts(
    sheet: ScoreMatrix, terms: Callable[[np.ndarray], np.ndarray], combine: Combine, scale: float
) -> Statistic:
    """``scale`` times the sum over the domains of a statistic of each."""
    parts = [terms(sheet.inside(domain)) for domain in dict.fromkeys(sheet.domains)]
    width = parts[0].shape[1]

    def summed(sums: np.ndarray) -> np.ndarray:
        by_part = sums.reshape(*sums.shape[:-1], -1, width)
        return np.asarray(scale * combine(by_part).sum(axis=-1))

    return Statistic(np.concatenate(parts, axis=1), summed)


def _mme(name: str, domain: str, sheet: ScoreMatrix, right_N: np.ndarray) -> Statistic:
    kinds = {"mme_perception_score": MME_PERCEPTION, "mme_cognition_score": MME_COGNITION}
    subtasks = [one for one in dict.fromkeys(sheet.domains) if one in kinds.get(name, ()) or one == domain]
    parts = [np.zeros((len(right_N), 4))]
    for subtask in subtasks:
        inside_N = sheet.inside(subtask)
        parts.append(np.concatenate([_mean_terms(right_N, inside_N), _group_terms(right_N, sheet, inside_N)], axis=1))

    def scored(sums: np.ndarray) -> np.ndarray:
        by_subtask = sums.reshape(*sums.shape[:-1], -1, 4)[..., 1:, :]
        return np.asarray(100 * (ratio(by_subtask[..., :2]) + ratio(by_subtask[..., 2:])).sum(axis=-1))

    return Statistic(np.concatenate(parts, axis=1), scored)


def _yes_no_terms(prefix: str, sheet: ScoreMatrix, scores: Scores) -> np.ndarray:
    """Said yes and is yes, said yes, is yes, 1: told from right and wrong, an unreadable answer being no."""
    right_N = scores[f"{prefix}_accuracy"]
    unreadable_N = scores.get(f"{prefix}_unreadable", np.zeros_like(right_N))
    yes_N = sheet.is_yes_N.astype(np.float64)
    said_N = np.where(sheet.is_yes_N, right_N, 1.0 - right_N - unreadable_N)
    return np.stack([said_N * yes_N, said_N, yes_N, np.ones_like(yes_N)], axis=1)
