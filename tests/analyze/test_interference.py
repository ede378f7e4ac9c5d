"""Task interference against closed forms and against loops that anyone can read."""

from __future__ import annotations

import numpy as np
import pytest

from llava_moe.analyze.interference import (
    SMALLEST_SHARE,
    cosines_of_records,
    first_order_effects,
    interval,
    measure,
    measure_cosines,
    resamples,
)

group_of = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])


@pytest.fixture
def gradients() -> np.ndarray:
    """Gradients of twelve records in three groups that pull in directions of their own."""
    generator = np.random.default_rng(3)
    pulls = generator.normal(size=(3, 7))
    return pulls[group_of] + 0.6 * generator.normal(size=(len(group_of), 7))


def effects_in_loops(gradients: np.ndarray) -> np.ndarray:
    found = np.zeros((len(gradients), len(gradients)))
    for x, of_x in enumerate(gradients):
        for y, of_y in enumerate(gradients):
            found[x, y] = sum(of_x * of_y) / np.sqrt(sum(of_y * of_y))
    return found


def interference_in_loops(effects: np.ndarray, draw: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ratio of means and mean of ratios over a draw of records (which may name one twice), from their definitions."""
    by_record = {}
    for x in draw:
        for group in range(3):
            others = [y for y in draw if group_of[y] == group and y != x]
            by_record[x, group] = np.mean([effects[x, y] for y in others])
    of_means, of_ratios = np.zeros((3, 3)), np.zeros((3, 3))
    for i in range(3):
        drawn = [x for x in draw if group_of[x] == i]
        own = np.mean([by_record[x, i] for x in drawn])
        floor = SMALLEST_SHARE * np.mean([abs(by_record[x, i]) for x in drawn])
        for j in range(3):
            of_means[i, j] = np.mean([by_record[x, j] for x in drawn]) / own if own > 0 else np.nan
            kept = [x for x in drawn if abs(by_record[x, i]) > floor]
            of_ratios[i, j] = np.mean([by_record[x, j] / by_record[x, i] for x in kept])
    return of_means, of_ratios


def test_the_matrices_are_those_of_their_definitions(gradients: np.ndarray) -> None:
    effects = first_order_effects(gradients @ gradients.T)
    np.testing.assert_allclose(effects, effects_in_loops(gradients), rtol=1e-12)
    found = measure(effects, group_of)
    of_means, of_ratios = interference_in_loops(effects, list(range(len(group_of))))
    np.testing.assert_allclose(found.ratio_of_means, of_means, rtol=1e-10)
    np.testing.assert_allclose(found.mean_of_ratios, of_ratios, rtol=1e-10)
    np.testing.assert_allclose(np.diagonal(found.ratio_of_means), 1)
    np.testing.assert_allclose(np.diagonal(found.mean_of_ratios), 1)


def test_a_resample_is_measured_as_if_its_records_were_all_there_are(gradients: np.ndarray) -> None:
    effects = first_order_effects(gradients @ gradients.T)
    counts = resamples(group_of, 120, seed=5)
    assert all((counts[:, group_of == group].sum(1) == (group_of == group).sum()).all() for group in range(3))
    found = measure(effects, group_of, counts)
    num_compared = 0
    for place, drawn in enumerate(counts):
        if any(drawn[group_of == group].max() == (group_of == group).sum() for group in range(3)):
            continue  # one record alone has no other that moves it
        draw = [record for record, count in enumerate(drawn.astype(int)) for _ in range(count)]
        of_means, of_ratios = interference_in_loops(effects, draw)
        np.testing.assert_allclose(found.ratio_of_means[place], of_means, rtol=1e-9)
        np.testing.assert_allclose(found.mean_of_ratios[place], of_ratios, rtol=1e-9)
        num_compared += 1
    assert num_compared > 60


def test_cosines_are_means_over_pairs_of_different_records(gradients: np.ndarray) -> None:
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    found = measure_cosines(cosines_of_records(gradients @ gradients.T), group_of)
    for i in range(3):
        for j in range(3):
            pairs = [
                unit[x] @ unit[y]
                for x in np.flatnonzero(group_of == i)
                for y in np.flatnonzero(group_of == j)
                if x != y
            ]
            assert found.pairwise[i, j] == pytest.approx(np.mean(pairs))
    own = np.sqrt(np.diagonal(found.pairwise))
    np.testing.assert_allclose(found.direction, found.pairwise / np.outer(own, own))


def test_opposed_domains_harm_each_other_and_equal_ones_help() -> None:
    generator = np.random.default_rng(0)
    pull = generator.normal(size=40)
    signs = np.array([1, -1, 1])
    gradients = signs[group_of][:, None] * pull + 0.1 * generator.normal(size=(len(group_of), 40))
    found = measure(first_order_effects(gradients @ gradients.T), group_of)
    assert (np.sign(found.ratio_of_means) == np.outer(signs, signs)).all()
    np.testing.assert_allclose(np.abs(found.ratio_of_means), 1, atol=0.05)


def test_the_length_of_a_domains_gradients_does_not_change_what_its_steps_do(gradients: np.ndarray) -> None:
    """Steps are normalised: ten times the gradient is the same step, and ratios divide the affected's length away."""
    longer = gradients * np.where(group_of == 1, 10.0, 1.0)[:, None]
    before, after = (measure(first_order_effects(one @ one.T), group_of) for one in (gradients, longer))
    np.testing.assert_allclose(after.ratio_of_means, before.ratio_of_means, rtol=1e-10)
    np.testing.assert_allclose(after.mean_of_ratios, before.mean_of_ratios, rtol=1e-10)


def test_a_record_without_a_gradient_moves_nothing(gradients: np.ndarray) -> None:
    gradients[0] = 0
    effects = first_order_effects(gradients @ gradients.T)
    assert not effects[:, 0].any() and not effects[0].any()
    assert np.isfinite(measure(effects, group_of).ratio_of_means).all()
    assert np.isfinite(measure_cosines(cosines_of_records(gradients @ gradients.T), group_of).pairwise).all()


def test_a_domain_that_its_own_steps_harm_has_no_ratio() -> None:
    """Its records pull apart: a negative denominator would turn every sign in its row."""
    gradients = np.zeros((12, 3))
    gradients[:4] = [[1, 0, 0], [-1, 0, 0], [1, 0, 0], [-1, 0, 0]]
    gradients[4:, 1:] = 1 + np.random.default_rng(0).normal(size=(8, 2)) * 0.1
    found = measure(first_order_effects(gradients @ gradients.T), group_of)
    assert np.isnan(found.ratio_of_means[0]).all() and np.isfinite(found.ratio_of_means[1:]).all()


def test_an_interval_holds_its_estimate_and_is_none_where_draws_have_no_value() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 1, 2))
    values[:30, 0, 1] = np.nan
    ends = interval(values, np.array([[5.0, 0.0]]))
    low = np.percentile(values[:, 0, 0], 2.5)
    assert ends[0, 0].tolist() == [low, 5.0] and np.isnan(ends[0, 1]).all()
