"""Spearman's correlation over the pairs of a matrix, its interval and its relabeling test, against plain loops."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.analyze.rank_correlation import MOST_NAMINGS, correlate, ranks_of, spearman


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_ties_share_the_mean_of_their_ranks(values: list[int]) -> None:
    expected = []
    for value in values:
        below, equal = sum(other < value for other in values), sum(other == value for other in values)
        expected.append(below + (equal + 1) / 2)
    np.testing.assert_allclose(ranks_of(np.array(values, dtype=float)), expected)


@settings(deadline=None)
@given(st.permutations(list(range(7))), st.permutations(list(range(7))))
def test_without_ties_it_is_spearmans_own_formula(left: list[int], right: list[int]) -> None:
    squares = sum((one - other) ** 2 for one, other in zip(left, right, strict=True))
    expected = 1 - 6 * squares / (7 * (7**2 - 1))
    assert float(spearman(np.array(left, float), np.array(right, float))) == pytest.approx(expected)


def matrix(num_domains: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_domains, num_domains))


def resampled(values_DD: np.ndarray, size: float, seed: int) -> np.ndarray:
    return values_DD + size * np.random.default_rng(seed).normal(size=(50, *values_DD.shape))


def test_the_diagonal_plays_no_part() -> None:
    left, right = matrix(4, 0), matrix(4, 1)
    before = correlate(left, right, resampled(left, 0.1, 2), resampled(right, 0.1, 3), seed=0)
    np.fill_diagonal(left, 1e6)
    assert correlate(left, right, resampled(left, 0.1, 2), resampled(right, 0.1, 3), seed=0).rho == before.rho
    assert before.num_pairs == 12 and before.low <= before.rho <= before.high


def test_the_relabeling_test_is_the_share_of_all_namings_that_agree_as_well() -> None:
    left, right = matrix(4, 4), matrix(4, 5)
    is_off = ~np.eye(4, dtype=bool)
    rhos = []
    for order in permutations(range(4)):
        renamed = np.array([[right[order[i], order[j]] for j in range(4)] for i in range(4)])
        rhos.append(float(spearman(left[is_off], renamed[is_off])))
    found = correlate(left, right, resampled(left, 0.1, 0), resampled(right, 0.1, 1), seed=0)
    assert found.num_namings == 24
    assert found.p == pytest.approx(sum(rho >= rhos[0] - 1e-9 for rho in rhos) / 24)


def test_three_domains_reach_no_smaller_p_than_a_sixth_whatever_they_say() -> None:
    values = matrix(3, 6)
    found = correlate(values, 2 * values, resampled(values, 0, 0), resampled(2 * values, 0, 0), seed=0)
    assert found.rho == pytest.approx(1) and found.low == pytest.approx(1) and found.high == found.same_sign == 1
    assert found.p == pytest.approx(1 / 6) and found.num_pairs == 6


def test_of_very_many_namings_some_are_drawn_the_same_each_time() -> None:
    left, right = matrix(8, 7), matrix(8, 8)
    given_twice = [correlate(left, right, left[None], right[None], seed=3) for _ in range(2)]
    assert given_twice[0] == given_twice[1] and given_twice[0].num_namings == MOST_NAMINGS


def test_pairs_that_one_matrix_does_not_know_are_left_out_and_too_few_have_no_correlation() -> None:
    left, right = matrix(3, 9), matrix(3, 10)
    left[1] = np.nan
    found = correlate(left, right, np.repeat(left[None], 50, 0), resampled(right, 0.1, 0), seed=0)
    assert found.num_pairs == 4 and math.isfinite(found.rho) and math.isnan(found.p)
    left[2] = np.nan
    found = correlate(left, right, np.repeat(left[None], 50, 0), resampled(right, 0.1, 0), seed=0)
    assert found.num_pairs == 2 and math.isnan(found.rho) and math.isnan(found.low)


def test_a_resample_without_a_correlation_leaves_no_interval() -> None:
    left, right = matrix(3, 11), matrix(3, 12)
    drawn = resampled(left, 0.1, 0)
    drawn[7] = 0.0
    found = correlate(left, right, drawn, resampled(right, 0.1, 1), seed=0)
    assert math.isfinite(found.rho) and math.isnan(found.low) and math.isnan(found.high)
