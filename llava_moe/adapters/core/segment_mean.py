"""Means of the rows of a tensor by bin: what an example is known by.

Shape suffixes: B rows, T tokens, N = B * T, D features, S bins.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows that are cast to fp32 together when they are summed.
ROWS_AT_ONCE = 1024


def mean_by_bin(x_BTD: Tensor, bins_N: Tensor, counts_S1: Tensor) -> Tensor:
    """Mean [S, D] of the rows of each bin, in fp32 at least.

    Args:
        bins_N: int64, the bin of each row; S for rows that are left out.
        counts_S1: by what the sums are divided, [S, 1].
    """
    return _Mean.apply(x_BTD, bins_N, counts_S1)


def add_by_index(x_ND: Tensor, bins_N: Tensor, num_bins: int) -> Tensor:
    """Sums [S, D] of the rows of each bin, in fp32 at least, one row after the other; bin S is left out."""
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    sums_SD = torch.zeros(num_bins + 1, x_ND.shape[-1], dtype=dtype, device=x_ND.device)
    for x_nD, bins_n in zip(x_ND.split(ROWS_AT_ONCE), bins_N.split(ROWS_AT_ONCE), strict=True):
        sums_SD.index_add_(0, bins_n, x_nD.to(dtype))
    return sums_SD[:-1]


def add_by_product(x_ND: Tensor, bins_N: Tensor, num_bins: int) -> Tensor:
    """The same as a matrix product with ones and zeros, which TF32 leaves exact for half-precision rows."""
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    sums_SD = torch.zeros(num_bins, x_ND.shape[-1], dtype=dtype, device=x_ND.device)
    of_S1 = torch.arange(num_bins, device=x_ND.device).unsqueeze(1)
    for x_nD, bins_n in zip(x_ND.split(8 * ROWS_AT_ONCE), bins_N.split(8 * ROWS_AT_ONCE), strict=True):
        sums_SD.addmm_((bins_n == of_S1).to(dtype), x_nD.to(dtype))
    return sums_SD


class _Mean(torch.autograd.Function):
    """Mean of the rows of each bin, in fp32 at least; plain autograd would make fp32 copies of x and its gradient."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, bins_N: Tensor, counts_S1: Tensor) -> Tensor:
        ctx.dtype, ctx.shape = x_BTD.dtype, x_BTD.shape
        ctx.save_for_backward(bins_N, counts_S1)
        # A GPU adds to few places from many threads in no order, and what a gate decides would not be the same twice.
        add = add_by_product if x_BTD.is_cuda else add_by_index
        return add(x_BTD.flatten(0, -2), bins_N, len(counts_S1)) / counts_S1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean_SD: Tensor) -> tuple[Tensor, None, None]:
        bins_N, counts_S1 = ctx.saved_tensors
        dx_SD = (dmean_SD / counts_S1).to(ctx.dtype)
        dx_SD = torch.cat([dx_SD, dx_SD.new_zeros(1, dx_SD.shape[-1])])
        return dx_SD.index_select(0, bins_N).view(ctx.shape), None, None
