"""Measured transfer: falls and shares against plain loops, their intervals, and the matrices they are compared with."""

from __future__ import annotations

import numpy as np
import pytest

from llava_moe.analyze.interference import cosines_of_records, first_order_effects, measure, measure_cosines
from llava_moe.analyze.parts import Part
from llava_moe.analyze.transfer import COMPARED_WITH, FALL, SHARE, compare, measure_transfer

GROUP_N = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])


def falls(num_seeds: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1.0, size=(num_seeds, 3, len(GROUP_N)))


def test_a_cell_is_the_mean_fall_over_the_affected_domains_records_and_the_seeds() -> None:
    falls_SDN = falls(2)
    found = measure_transfer(falls_SDN, GROUP_N, num_resamples=100, seed=0)
    for affected in range(3):
        for updating in range(3):
            cells = [falls_SDN[s, updating, n] for s in range(2) for n in range(len(GROUP_N)) if GROUP_N[n] == affected]
            assert found.values[FALL][affected, updating] == pytest.approx(sum(cells) / len(cells))


def test_a_share_is_of_what_a_domain_does_to_itself_and_is_unknown_where_that_is_harm() -> None:
    falls_SDN = falls(1)
    falls_SDN[0, 0, GROUP_N == 0] = [0.2, 0.4, 0.6]
    falls_SDN[0, 1, GROUP_N == 0] = [-0.2, -0.2, 0.0]
    falls_SDN[0, 1, GROUP_N == 1] = -1.0
    share = measure_transfer(falls_SDN, GROUP_N, num_resamples=100, seed=0).values[SHARE]
    assert share[0, 0] == 1 and share[0, 1] == pytest.approx(-1 / 3)
    assert np.isnan(share[1]).all()


def test_intervals_hold_the_estimate_and_are_points_where_records_and_seeds_agree() -> None:
    noisy = measure_transfer(falls(3), GROUP_N, num_resamples=200, seed=0)
    ends = noisy.intervals[FALL]
    assert (ends[..., 0] < noisy.values[FALL]).all() and (ends[..., 1] > noisy.values[FALL]).all()
    falls_SDN = np.broadcast_to(np.array([0.5, -0.25, 1.0])[None, :, None], (2, 3, len(GROUP_N)))
    still = measure_transfer(falls_SDN, GROUP_N, num_resamples=200, seed=0)
    np.testing.assert_allclose(still.intervals[FALL][..., 0], still.intervals[FALL][..., 1])


def test_seeds_that_differ_widen_the_interval() -> None:
    one = np.zeros((1, 3, len(GROUP_N))) + 0.5
    two = np.concatenate([one - 0.4, one + 0.4])
    alone, both = (measure_transfer(one_of, GROUP_N, 200, seed=0).intervals[FALL] for one_of in (one, two))
    assert np.allclose(alone[..., 1] - alone[..., 0], 0) and (both[..., 1] - both[..., 0] > 0.5).all()


def gram(seed: int) -> np.ndarray:
    gradients = np.random.default_rng(seed).normal(size=(len(GROUP_N), 40)) + 0.8
    return gradients @ gradients.T


def test_the_transfer_is_compared_with_the_matrices_of_everything_of_the_adapter_and_of_each_side() -> None:
    parts = {
        Part(0, "q_proj", "A"): gram(1),
        Part(0, "q_proj", "B"): gram(2),
        Part(None, "projector", "projector"): gram(3),
    }
    transfer = measure_transfer(falls(1), GROUP_N, num_resamples=100, seed=0)
    found = {(one.parameters, one.measured): one for one in compare(transfer, parts, GROUP_N, seed=0)}
    assert {name for name, _ in found} == {"all that trains", "adapter", "A", "B", "projector"}
    assert {measured for _, measured in found} == set(COMPARED_WITH)
    adapter = gram(1) + gram(2)
    expected = measure(first_order_effects(adapter), GROUP_N)
    np.testing.assert_allclose(found["adapter", "effect"].matrix_DD, expected.effect)
    np.testing.assert_allclose(found["adapter", "ratio_of_means"].matrix_DD, expected.ratio_of_means)
    cosines = measure_cosines(cosines_of_records(gram(3)), GROUP_N)
    np.testing.assert_allclose(found["projector", "pairwise_cosine"].matrix_DD, cosines.pairwise)


def test_the_same_parameters_are_not_compared_under_two_names() -> None:
    transfer = measure_transfer(falls(1), GROUP_N, num_resamples=100, seed=0)
    names = {one.parameters for one in compare(transfer, {Part(0, "q_proj", "A"): gram(1)}, GROUP_N, seed=0)}
    assert names == {"all that trains"}


def test_a_transfer_that_follows_the_gradients_correlates_fully() -> None:
    gram_NN = gram(4)
    effect_DD = measure(first_order_effects(gram_NN), GROUP_N).effect
    falls_SDN = np.stack([[effect_DD[GROUP_N, updating] for updating in range(3)]])
    transfer = measure_transfer(falls_SDN, GROUP_N, num_resamples=100, seed=0)
    (found,) = (
        one.correlation
        for one in compare(transfer, {Part(0, "q_proj", "A"): gram_NN}, GROUP_N, seed=0)
        if one.measured == "effect"
    )
    assert found.rho == pytest.approx(1) and found.same_sign == 1
