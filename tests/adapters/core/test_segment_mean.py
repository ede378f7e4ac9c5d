"""Sums and means of rows by bin."""

from __future__ import annotations

import pytest
import torch

from llava_moe.adapters.core.segment_mean import add_by_index, add_by_product, mean_by_bin


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_both_ways_to_add_rows_agree(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, bins = torch.randn(2500, 3, dtype=dtype), torch.randint(0, 5, (2500,))
    expected = torch.stack([x[bins == k].double().sum(0) for k in range(4)])
    for add in (add_by_index, add_by_product):
        sums = add(x, bins, 4)
        assert sums.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        torch.testing.assert_close(sums.double(), expected, atol=2e-4 if dtype == torch.bfloat16 else 1e-12, rtol=0)


def test_the_gradient_of_a_mean_is_shared_by_its_rows() -> None:
    x = torch.arange(10.0, dtype=torch.float64).view(1, 5, 2).requires_grad_()
    bins, counts = torch.tensor([1, 2, 0, 1, 1]), torch.tensor([[1], [3]])
    assert mean_by_bin(x, bins, counts).tolist() == [[4.0, 5.0], [14 / 3, 17 / 3]]
    assert torch.autograd.gradcheck(lambda x: mean_by_bin(x, bins, counts), x)
