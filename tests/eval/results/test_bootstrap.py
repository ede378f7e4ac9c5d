"""Resampling by hand, and what holds of every interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.eval.results.bootstrap import Interval, interval_of, resample
from llava_moe.eval.results.score_matrix import ScoreMatrix
from llava_moe.eval.statistics import Statistic, ratio


def sheet_of(clusters: list[int], strata: list[int] | None = None) -> ScoreMatrix:
    num, num_clusters = len(clusters), max(clusters) + 1
    names = tuple(f"q{number}" for number in range(num))
    strata_G = np.asarray(strata or [0] * num_clusters)
    return ScoreMatrix(names, ("all",) * num, names, np.zeros(num, dtype=bool), np.asarray(clusters), strata_G)


def mean_of(scores: list[float]) -> Statistic:
    return Statistic(np.stack([np.asarray(scores, dtype=float), np.ones(len(scores))], axis=1), ratio)


def test_two_questions_drawn_twice_are_binomial() -> None:
    """Two clusters, one right: the mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    [values] = resample([mean_of([1.0, 0.0])], sheet_of([0, 1]), num_resamples=40_000, seed=3)
    shares = [float((values == value).mean()) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_questions_of_one_image_are_drawn_together() -> None:
    """Four right answers about one image and four wrong ones about another: the mean is 0, 1/2 or 1, never between."""
    statistic = mean_of([1.0] * 4 + [0.0] * 4)
    [together] = resample([statistic], sheet_of([0] * 4 + [1] * 4), num_resamples=500)
    assert set(together.tolist()) == {0.0, 0.5, 1.0}
    [alone] = resample([statistic], sheet_of(list(range(8))), num_resamples=500)
    assert alone.std() < together.std() / 1.5


def test_the_interval_of_a_mean_is_the_normal_ones_for_many_questions() -> None:
    scores = [1.0] * 240 + [0.0] * 160
    [values] = resample([mean_of(scores)], sheet_of(list(range(400))), num_resamples=10_000, seed=1)
    interval = interval_of(values, 0.6)
    assert interval is not None
    spread = 1.96 * (0.6 * 0.4 / 400) ** 0.5
    assert (interval.low, interval.high) == pytest.approx((0.6 - spread, 0.6 + spread), abs=0.006)


def test_a_stratum_keeps_its_size() -> None:
    """One cluster alone in its stratum is in every draw exactly once."""
    first = Statistic(np.asarray([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), ratio)
    [values] = resample([first], sheet_of([0, 1, 2], strata=[0, 1, 1]), num_resamples=300)
    assert (values == 1.0).all()


def test_the_same_seed_draws_the_same_and_in_any_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    statistic, sheet = mean_of([1.0, 0.0, 1.0, 1.0, 0.0]), sheet_of(list(range(5)))
    [whole] = resample([statistic], sheet, num_resamples=100, seed=7)
    monkeypatch.setattr("llava_moe.eval.results.bootstrap._CELLS_AT_ONCE", 35)
    [portions] = resample([statistic], sheet, num_resamples=100, seed=7)
    [other] = resample([statistic], sheet, num_resamples=100, seed=8)
    assert np.array_equal(whole, portions) and not np.array_equal(whole, other)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=2, max_size=30),
    st.integers(0, 2**32),
)
def test_an_interval_holds_its_estimate_and_a_difference_turns_with_its_sides(
    rows: list[tuple[float, float, int]], seed: int
) -> None:
    known = sorted({cluster for *_, cluster in rows})
    sheet = sheet_of([known.index(cluster) for *_, cluster in rows])
    one, two = mean_of([first for first, *_ in rows]), mean_of([second for _, second, _ in rows])
    values = resample([one, two], sheet, num_resamples=50, seed=seed)
    there = interval_of(values[1] - values[0], two.value() - one.value())
    back = interval_of(values[0] - values[1], one.value() - two.value())
    assert there is not None and back is not None
    assert there.low <= two.value() - one.value() <= there.high
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    own = interval_of(values[0], one.value())
    assert own is not None and -1e-9 <= own.low <= one.value() <= own.high <= 1 + 1e-9


def test_an_interval_stands_off_zero_only_by_more_than_rounding() -> None:
    assert Interval(0.1, 0.2).is_away_from_zero and Interval(-0.2, -0.1).is_away_from_zero
    assert not Interval(0.0, 0.2).is_away_from_zero and not Interval(-0.1, 0.2).is_away_from_zero
    assert not Interval(1e-17, 2e-17).is_away_from_zero


def test_a_draw_without_any_such_question_leaves_no_interval() -> None:
    assert interval_of(np.asarray([0.5, np.nan]), 0.5) is None
    assert interval_of(np.asarray([0.5, 0.5]), float("nan")) is None


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="num_resamples"):
        resample([mean_of([1.0, 0.0])], sheet_of([0, 1]), num_resamples=0)
    with pytest.raises(ValueError, match="3 questions"):
        resample([mean_of([1.0, 0.0, 1.0])], sheet_of([0, 1]))
