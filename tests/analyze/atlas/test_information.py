"""Entropy, mutual information of expert and domain, and their error bars over records."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llava_moe.analyze.atlas.information import entropy_bits, information_bits, measure_information, shares_of


def plain_information(served: list[list[float]]) -> float:
    """I = sum over p(m, k) log2 of p(m, k) / (p(m) p(k)), with p(m) = 1 / M, one cell after the other."""
    num_domains = len(served)
    joint = [[cell / sum(row) / num_domains for cell in row] for row in served]
    of_expert = [sum(row[k] for row in joint) for k in range(len(served[0]))]
    return sum(
        cell * math.log2(cell * num_domains / of_expert[k]) for row in joint for k, cell in enumerate(row) if cell > 0
    )


def drawn(shares_MK: np.ndarray, num_records: int, num_tokens: int, spread: float, seed: int) -> np.ndarray:
    """Records whose own shares scatter round their domain's: [C, 1, K]; the tokens of one are alike."""
    generator = np.random.default_rng(seed)
    records = [
        generator.multinomial(num_tokens, generator.dirichlet(shares_K * spread + 1e-3))
        for shares_K in shares_MK
        for _ in range(num_records)
    ]
    return np.array(records, dtype=np.float64)[:, None]


def test_entropy_of_even_shares_is_the_logarithm_of_their_number() -> None:
    assert entropy_bits(np.array([[0.25] * 4, [1.0, 0, 0, 0]])).tolist() == [2.0, 0.0]
    assert np.isnan(entropy_bits(shares_of(np.zeros((1, 3)))))


@pytest.mark.parametrize(
    ("served", "bits"),
    [
        ([[5, 5], [50, 50]], 0.0),
        ([[7, 0], [0, 3]], 1.0),
        ([[1, 0, 0], [0, 4, 0], [0, 0, 9]], math.log2(3)),
        ([[3, 1], [1, 3]], 1 - (-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25))),
    ],
)
def test_information_of_known_tables_is_what_it_must_be(served: list[list[float]], bits: float) -> None:
    assert information_bits(np.array(served, dtype=float)) == pytest.approx(bits, abs=1e-12)
    assert plain_information(served) == pytest.approx(bits, abs=1e-12)


def test_information_equals_the_plain_sum_over_cells() -> None:
    served = np.random.default_rng(0).integers(0, 40, size=(20, 3, 5)).astype(float)
    for table in served:
        assert information_bits(table) == pytest.approx(plain_information(table.tolist()), abs=1e-12)


def test_a_domain_without_a_token_has_no_part() -> None:
    assert information_bits(np.array([[7.0, 0], [0, 3], [0, 0]])) == pytest.approx(1.0)
    assert np.isnan(information_bits(np.array([[7.0, 0], [0, 0]])))


def test_the_jackknife_takes_most_of_the_bias_off_where_domains_are_alike() -> None:
    alike_MK = np.full((3, 4), 0.25)
    domains_C = np.repeat(np.arange(3), 12)
    found = [measure_information(drawn(alike_MK, 12, 50, 8.0, seed), domains_C, 3, 20) for seed in range(60)]
    plug_in = np.mean([one.plug_in[0] for one in found])
    unclipped = np.mean([one.bits[0] for one in found])
    assert plug_in > 0.012 and unclipped < 0.5 * plug_in


def test_chance_reaches_a_p_value_of_five_in_a_hundred_about_as_often() -> None:
    alike_MK = np.full((2, 3), 1 / 3)
    domains_C = np.repeat(np.arange(2), 10)
    values = [
        measure_information(drawn(alike_MK, 10, 30, 3.0, seed), domains_C, 2, 200, seed).p_value[0]
        for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.10


def test_tokens_that_scatter_as_one_would_fool_whoever_permutes_tokens() -> None:
    """The records' own scatter, in a set of two domains alike: over records it is chance, over tokens it is not."""
    served_CUK = drawn(np.full((2, 3), 1 / 3), 10, 400, 1.0, seed=3)
    by_record = measure_information(served_CUK, np.repeat(np.arange(2), 10), 2, 400)
    of_tokens = served_CUK.reshape(2, 10, 3).sum(1)
    generator, total_K, num = np.random.default_rng(0), of_tokens.sum(0).astype(int), int(of_tokens[0].sum())
    dealt = generator.multivariate_hypergeometric(total_K, num, size=400)
    chance = information_bits(np.stack([dealt, total_K - dealt], axis=1).astype(float))
    assert by_record.p_value[0] > 0.05
    assert (chance >= by_record.plug_in[0]).mean() < 0.01


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    shares_MK = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]])
    truth = float(information_bits(np.stack([drawn(row[None], 4000, 200, 20.0, 9).sum((0, 1)) for row in shares_MK])))
    domains_C = np.repeat(np.arange(3), 32)
    found = [measure_information(drawn(shares_MK, 32, 200, 20.0, s), domains_C, 3, 300, s) for s in range(100)]
    assert np.mean([one.low[0] <= truth <= one.high[0] for one in found]) >= 0.88
    assert np.mean([one.bits[0] for one in found]) == pytest.approx(truth, rel=0.03)


def test_separate_domains_are_known_without_doubt() -> None:
    served_CUK = np.zeros((8, 2, 2))
    served_CUK[:4, 0, 0] = served_CUK[4:, 0, 1] = 10  # the first router parts them, the second does not
    served_CUK[:, 1] = 5
    found = measure_information(served_CUK, np.repeat([0, 1], 4), 2, 500)
    assert found.bits.tolist() == pytest.approx([1.0, 0.0])
    assert found.low.tolist() == pytest.approx([1.0, 0.0]) and found.high.tolist() == pytest.approx([1.0, 0.0])
    assert found.p_value[0] < 0.06 and found.p_value[1] == 1.0
    assert found.mean is not None and found.mean.bits[0] == pytest.approx(0.5)


def test_the_same_seed_gives_the_same_numbers_and_a_lone_record_is_refused() -> None:
    served_CUK = drawn(np.array([[0.6, 0.4], [0.4, 0.6]]), 5, 20, 5.0, 0)
    twice = [measure_information(served_CUK, np.repeat([0, 1], 5), 2, 50, seed=7) for _ in range(2)]
    assert np.array_equal(twice[0].low, twice[1].low) and np.array_equal(twice[0].p_value, twice[1].p_value)
    with pytest.raises(ValueError, match="two are the least"):
        measure_information(served_CUK[:6], np.array([0, 0, 0, 0, 0, 1]), 2, 50)
