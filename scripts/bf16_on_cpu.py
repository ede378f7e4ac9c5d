"""``llava-moe`` on a processor without bf16 instructions: products of bf16 matrices are computed in fp32.

There torch multiplies bf16 matrices 10 to 400 times more slowly than fp32 ones (measured on AVX2). What is rounded is
the same: sums in fp32, results in bf16, as on a GPU.
"""

from __future__ import annotations

import sys
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from llava_moe.cli import run

LIBRARY = torch.library.Library("aten", "IMPL")


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    shape = (*left.shape[:-1], right.shape[-1])
    if left.dtype != torch.bfloat16:
        multiplied = left.new_empty(shape)
        return (torch.ops.aten.mm if left.dim() == 2 else torch.ops.aten.bmm).out(left, right, out=multiplied)
    return _product(left.float(), right.float()).bfloat16()


def main() -> int:
    """Run the command of the rest of the line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two kernels take the place of torch's
        for name in ("mm", "bmm"):
            LIBRARY.impl(name, _product, "CPU")
    # The fused kernel has products of its own.
    with sdpa_kernel(SDPBackend.MATH):
        return run(sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
