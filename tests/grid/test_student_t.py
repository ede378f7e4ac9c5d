"""Student's t agrees with the tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llava_moe.grid.student_t import quantile, two_sided

# Two-sided 95 and 99 %, as printed in any table.
TABLE = {1: (12.706, 63.657), 2: (4.303, 9.925), 4: (2.776, 4.604), 10: (2.228, 3.169), 100: (1.984, 2.626)}


@pytest.mark.parametrize("df", TABLE)
def test_quantiles_are_those_of_the_table(df: int) -> None:
    assert [round(quantile(share, df), 3) for share in (0.95, 0.99)] == list(TABLE[df])


def test_four_degrees_have_their_closed_form() -> None:
    for t in (0.0, 0.3, 1.0, 2.776, 9.0):
        inside = t / math.sqrt(1 + t * t / 4) * (1 - t * t / (12 * (1 + t * t / 4))) * 3 / 4
        assert two_sided(t, 4) == pytest.approx(1 - inside, abs=1e-9)
        assert two_sided(-t, 4) == two_sided(t, 4)


def test_broken_degrees_are_those_of_numpy_s_samples() -> None:
    samples = np.abs(np.random.default_rng(0).standard_t(6.5, size=200_000))
    assert two_sided(2.0, 6.5) == pytest.approx((samples > 2.0).mean(), abs=2e-3)


def test_senseless_values_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        two_sided(1.0, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile(1.0, 4)
