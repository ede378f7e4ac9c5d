"""What an export is refused for: nothing changed, something else computed, most of it rounded away."""

from __future__ import annotations

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.export.proof import compare

BASE = [torch.zeros(3, 5), torch.zeros(2, 5)]


def off(base: list[torch.Tensor], amount: float) -> list[torch.Tensor]:
    changed = [logits.clone() for logits in base]
    changed[1][1, 2] += amount
    return changed


def test_logits_within_the_tolerance_are_told_with_their_difference() -> None:
    ours = [logits + 2 for logits in BASE]
    comparison = compare("it", ours, off(ours, 2**-13), BASE, torch.float32)
    assert comparison.difference == 2**-13
    assert comparison.from_base == comparison.largest == 2
    assert "differ by at most 1.22e-04 from ours (allowed 2.00e-04)" in comparison.line


@pytest.mark.parametrize(
    ("ours", "theirs", "dtype", "message"),
    [
        (BASE, BASE, torch.float32, "equal the base model's"),
        (off(BASE, 1), BASE, torch.float32, "equal the base model's"),
        (off(BASE, 1), off(BASE, 1.01), torch.float32, "is not this run"),
        (off([b + 1 for b in BASE], 1e-3), off([b + 1 for b in BASE], 1e-2), torch.bfloat16, "add dtype=fp32"),
    ],
)
def test_what_was_written_wrong_is_refused(
    ours: list[torch.Tensor], theirs: list[torch.Tensor], dtype: torch.dtype, message: str
) -> None:
    base = [b + 1 for b in BASE] if dtype == torch.bfloat16 else BASE
    with pytest.raises(UserError, match=message) as info:
        compare("it", ours, theirs, base, dtype)
    assert "\n" not in str(info.value)
