"""The package's statistics are those that the study of conflict checks against known truths; t is the tables'."""

from __future__ import annotations

import numpy as np
import pytest

from llava_moe.grid import effects, student_t
from studies.conflict import effects as theirs


def test_an_effect_and_its_interval_are_those_of_the_study() -> None:
    generator = np.random.default_rng(0)
    for num_strata in (1, 3):
        drawn = [
            (generator.normal(0.1, 1, (3, 40)), generator.integers(1, 6, 40).astype(float)) for _ in range(num_strata)
        ]
        ours = effects.effect_of([effects.Stratum(*pair) for pair in drawn])
        assert vars(ours) == vars(theirs.effect_of([theirs.Stratum(*pair) for pair in drawn]))
    assert effects.survives_holm([0.01, 0.04, 0.03]) == [True, False, False]


def test_an_effect_over_seeds_alone_is_students_t() -> None:
    one = effects.effect_over_seeds(np.array([0.1, 0.2, 0.3]))
    width = 4.3027 * 0.1 / 3**0.5
    assert (one.value, one.low, one.high) == pytest.approx((0.2, 0.2 - width, 0.2 + width), abs=1e-4)


@pytest.mark.parametrize(("df", "t"), [(1, 12.706), (2, 4.303), (4, 2.776), (100, 1.984)])
def test_quantiles_are_those_of_the_table(df: int, t: float) -> None:
    assert round(student_t.quantile(0.95, df), 3) == t
