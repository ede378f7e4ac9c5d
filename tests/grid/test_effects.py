"""Intervals hold the truth as often as they say, on data whose truth is known; Holm lets through what it should."""

from __future__ import annotations

import numpy as np
import pytest

from llava_moe.grid.effects import Stratum, effect_of, effect_over_seeds, item_variance, survives_holm

TRUTH = 0.03
NUM_STUDIES = 200
# Standard deviations over seeds, over groups of items, and of what is left: seeds decide, items decide, both.
SOURCES_OF_CHANCE = {"seeds": (0.02, 0.05, 0.05), "items": (0.001, 0.3, 0.3), "both": (0.02, 0.3, 0.3)}


def simulated(generator: np.random.Generator, of_seeds: float, of_items: float, rest: float, truth: float) -> Stratum:
    """Five seeds, 120 groups of one to six items, so that a ratio of sums is not a mean of ratios."""
    weights_G = generator.integers(1, 7, 120).astype(float)
    seeds_S1 = generator.normal(0, of_seeds, (5, 1))
    items_G = generator.normal(0, of_items, 120)
    rest_SG = generator.normal(0, rest, (5, 120))
    return Stratum((truth + seeds_S1 + items_G + rest_SG) * weights_G, weights_G)


@pytest.mark.parametrize("chance", SOURCES_OF_CHANCE)
def test_the_interval_holds_the_truth_in_about_95_of_100_studies(chance: str) -> None:
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(NUM_STUDIES):
        effect = effect_of([simulated(generator, *SOURCES_OF_CHANCE[chance], TRUTH)])
        held += effect.low <= TRUTH <= effect.high
    # Three standard errors of 200 studies are 4.6 points; what is counted twice makes intervals a little wide.
    assert 0.90 <= held / NUM_STUDIES <= 0.995


def test_a_bootstrap_s_percentiles_over_five_seeds_are_too_narrow() -> None:
    """Why they are not used."""
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(NUM_STUDIES):
        stratum = simulated(generator, *SOURCES_OF_CHANCE["seeds"], TRUTH)
        seeds_RS = generator.multinomial(5, [0.2] * 5, size=400) / 5
        items_RG = generator.multinomial(120, [1 / 120] * 120, size=400)
        draws_R = np.einsum("rs,sg,rg->r", seeds_RS, stratum.deltas_SG, items_RG) / (items_RG @ stratum.weights_G)
        low, high = np.percentile(draws_R, [2.5, 97.5])
        held += low <= TRUTH <= high
    assert held / NUM_STUDIES < 0.90


def test_the_variance_over_items_is_that_of_a_bootstrap_over_them() -> None:
    generator = np.random.default_rng(2)
    stratum = simulated(generator, *SOURCES_OF_CHANCE["both"], TRUTH)
    counts_RG = generator.multinomial(120, [1 / 120] * 120, size=4000)
    drawn_R = (counts_RG @ stratum.deltas_SG.mean(axis=0)) / (counts_RG @ stratum.weights_G)
    # 4,000 draws know a variance to 2.2 %.
    assert item_variance(stratum) == pytest.approx(drawn_R.var(), rel=0.08)


def test_a_p_value_is_below_five_of_hundred_in_about_five_of_hundred_studies_of_nothing() -> None:
    generator = np.random.default_rng(3)
    effects = [effect_of([simulated(generator, *SOURCES_OF_CHANCE["both"], 0.0)]) for _ in range(NUM_STUDIES)]
    assert 0.005 <= sum(one.p < 0.05 for one in effects) / NUM_STUDIES <= 0.09
    assert all((one.p < 0.05) == one.is_away_from_zero for one in effects)


def test_a_large_effect_is_found() -> None:
    effect = effect_of([simulated(np.random.default_rng(0), 0.01, 0.05, 0.05, 0.5)])
    assert effect.low > 0.4
    assert effect.p < 1e-4


def test_the_effect_is_the_mean_over_seeds_of_the_ratio_of_sums() -> None:
    deltas_SG, weights_G = np.asarray([[1.0, 4.0, 1.0], [3.0, 0.0, 0.0]]), np.asarray([1.0, 2.0, 3.0])
    assert effect_of([Stratum(deltas_SG, weights_G)]).value == pytest.approx((6 / 6 + 3 / 6) / 2)


def test_several_domains_count_alike_and_narrow_the_interval() -> None:
    generator = np.random.default_rng(1)
    strata = [simulated(generator, 0.0, 0.3, 0.1, truth) for truth in (0.0, 0.2, 0.4)]
    alone = [effect_of([stratum]) for stratum in strata]
    together = effect_of(strata)
    assert together.value == pytest.approx(np.mean([one.value for one in alone]))
    assert together.high - together.low < min(one.high - one.low for one in alone)


def test_cells_that_are_equal_have_no_effect() -> None:
    effect = effect_of([Stratum(np.zeros((5, 8)), np.ones(8))])
    assert (effect.value, effect.low, effect.high, effect.p) == (0.0, 0.0, 0.0, 1.0)


def test_one_seed_or_one_group_gives_no_interval() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        Stratum(np.zeros((1, 8)), np.ones(8))
    with pytest.raises(ValueError, match="do not fit"):
        Stratum(np.zeros((5, 8)), np.ones(7))
    with pytest.raises(ValueError, match="same seeds"):
        effect_of([Stratum(np.zeros((5, 8)), np.ones(8)), Stratum(np.zeros((4, 8)), np.ones(8))])


def test_an_effect_over_seeds_alone_is_students_t() -> None:
    one = effect_over_seeds(np.array([0.1, 0.2, 0.3]))
    width = 4.3027 * 0.1 / 3**0.5
    assert (one.value, one.low, one.high) == pytest.approx((0.2, 0.2 - width, 0.2 + width), abs=1e-4)


def test_holm_goes_down_from_the_smallest_and_stops_at_the_first_that_fails() -> None:
    assert survives_holm([0.01, 0.04, 0.03]) == [True, False, False]
    assert survives_holm([0.01, 0.02, 0.03]) == [True, True, True]
    # Bonferroni would stop the second; a plain 5 % would let the last through.
    assert survives_holm([0.2, 0.01, 0.012, 0.04]) == [False, True, True, False]
    assert survives_holm([]) == []
