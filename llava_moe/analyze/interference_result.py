"""Interference of every part of an adapter, first order and exact, with intervals: the numbers of the four files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llava_moe.analyze.exact_steps import Steps
from llava_moe.analyze.gradients import summed
from llava_moe.analyze.interference import (
    Cosines,
    Measures,
    cosines_of_records,
    first_order_effects,
    interval,
    measure,
    measure_cosines,
    resamples,
)
from llava_moe.analyze.parts import SCOPES, Part, Scope, members

FIRST_ORDER, EXACT, SAME_RECORDS = "first order", "exact", "first order, records of exact"
MEASURES = ("ratio_of_means", "mean_of_ratios", "effect", "pairwise_cosine", "direction_cosine")


@dataclass(frozen=True)
class PartResult:
    """One set of parameters, measured one way; matrices [D, D], intervals [D, D, 2].

    Attributes:
        values: ``ratio_of_means``, ``mean_of_ratios`` and ``effect`` (nats: exact of a step of the told length,
            to first order of one of length 1); ``pairwise_cosine`` and ``direction_cosine`` for the first order.
        intervals: of each of them, 95 %.
        norm_D: mean length of the records' gradients by group; empty for the exact.
    """

    scope: Scope
    name: str
    order: str
    values: Mapping[str, np.ndarray]
    intervals: Mapping[str, np.ndarray]
    norm_D: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """How far the exact effects follow the first-order ones of the same records, over pairs of different records."""

    correlation: float
    same_sign: float
    num_pairs: int


def first_order_results(
    grams: Mapping[Part, np.ndarray], group_N: np.ndarray, num_resamples: int, seed: int
) -> list[PartResult]:
    """Of all parameters, each side, linear, layer, linear of a layer, and side of a linear of a layer."""
    counts_RN = resamples(group_N, num_resamples, seed)
    parts = tuple(grams)
    results, before = [], set[tuple[int, ...]]()
    for scope in SCOPES:
        for name, places in members(parts, scope).items():
            # A linear of one side alone is the same set once more.
            if scope in ("module", "part") and tuple(places) in before:
                continue
            before.add(tuple(places))
            gram_NN = summed(grams, places)
            results.append(_first_order(scope, name, gram_NN, group_N, counts_RN))
    return results


def exact_results(
    effects: Mapping[tuple[Scope, str], np.ndarray],
    grams: Mapping[Part, np.ndarray],
    group_N: np.ndarray,
    steps: Steps,
    num_resamples: int,
    seed: int,
) -> list[PartResult]:
    """Of the parts that steps were taken along, exact and, of the same records, to first order.

    Args:
        group_N: of all records, of which those in ``steps.places`` took part.
    """
    places = list(steps.places)
    group_N = group_N[places]
    counts_RN, parts, results = resamples(group_N, num_resamples, seed), tuple(grams), []
    for (scope, name), effects_NN in effects.items():
        values, intervals = _measured(effects_NN, group_N, counts_RN)
        results.append(PartResult(scope, name, EXACT, values, intervals, np.empty(0)))
        gram_NN = summed(grams, members(parts, scope)[name])[np.ix_(places, places)]
        results.append(replace(_first_order(scope, name, gram_NN, group_N, counts_RN), order=SAME_RECORDS))
    return results


def _first_order(
    scope: Scope, name: str, gram_NN: np.ndarray, group_N: np.ndarray, counts_RN: np.ndarray
) -> PartResult:
    values, intervals = _measured(first_order_effects(gram_NN), group_N, counts_RN)
    cosines_NN = cosines_of_records(gram_NN)
    cosines, drawn = measure_cosines(cosines_NN, group_N), measure_cosines(cosines_NN, group_N, counts_RN)
    for field, one, many in _paired(cosines, drawn):
        values[f"{field}_cosine"], intervals[f"{field}_cosine"] = one, interval(many, one)
    norms_N = np.sqrt(np.diagonal(gram_NN))
    norm_D = np.array([norms_N[group_N == group].mean() for group in range(group_N.max() + 1)])
    return PartResult(scope, name, FIRST_ORDER, values, intervals, norm_D)


def _measured(
    effects_NN: np.ndarray, group_N: np.ndarray, counts_RN: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    estimate, drawn = measure(effects_NN, group_N), measure(effects_NN, group_N, counts_RN)
    values, intervals = {}, {}
    for field, one, many in _paired(estimate, drawn):
        values[field], intervals[field] = one, interval(many, one)
    return values, intervals


def _paired(one: Measures | Cosines, many: Measures | Cosines) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [(name, getattr(one, name), getattr(many, name)) for name in vars(one)]


def agreement(gram_NN: np.ndarray, exact_NN: np.ndarray, steps: Steps) -> Agreement:
    """Pearson's correlation and the share of equal signs between first-order and exact effects."""
    first_NN = first_order_effects(gram_NN)[np.ix_(steps.places, steps.places)] * steps.size
    is_pair_NN = ~np.eye(len(steps.places), dtype=bool)
    first, exact = first_NN[is_pair_NN], exact_NN[is_pair_NN]
    has_spread = first.std() > 0 and exact.std() > 0
    correlation = float(np.corrcoef(first, exact)[0, 1]) if has_spread else float("nan")
    return Agreement(correlation, float((np.sign(first) == np.sign(exact)).mean()), len(first))


def as_facts(result: PartResult) -> dict[str, Any]:
    """A result for JSON; matrices as lists of rows."""
    return {
        "scope": result.scope,
        "name": result.name,
        "order": result.order,
        **{name: matrix.tolist() for name, matrix in result.values.items()},
        "intervals": {name: ends.tolist() for name, ends in result.intervals.items()},
        **({"mean_gradient_norm": result.norm_D.tolist()} if len(result.norm_D) else {}),
    }


HEADER = ("scope", "part", "order", "measure", "affected", "updating", "value", "low", "high")


def as_rows(results: Sequence[PartResult], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """A line of the table for each cell of each matrix."""
    return [
        (
            *(result.scope, result.name, result.order, measured, names[i], names[j]),
            *(float(result.values[measured][i, j]), *result.intervals[measured][i, j].tolist()),
        )
        for result in results
        for measured in MEASURES
        if measured in result.values
        for i in range(len(names))
        for j in range(len(names))
    ]
