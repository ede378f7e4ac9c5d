"""Several processes hold all that trains where it leaves room, and divide it where it does not."""

from __future__ import annotations

import pytest

from llava_moe.train.choose_engine import fits_on_each, state_bytes


@pytest.mark.parametrize(("num_bytes", "expected"), [(4, 16), (2, 22)])
def test_what_a_number_takes_is_its_gradient_twice_its_moments_and_in_half_precision_its_master(
    num_bytes: int, expected: int
) -> None:
    assert state_bytes(1_000, num_bytes) == 1_000 * expected


def test_half_of_what_is_free_is_left_to_activations() -> None:
    assert fits_on_each(50, free=100) and not fits_on_each(51, free=100)
