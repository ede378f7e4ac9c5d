"""An adapter folded into its base: W' = W + s B M A, where M is constant.

Shape suffixes: D in, O out, R bank width (reading), W (writing).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.export.constant_gates import Mixings, wide_linears


@torch.no_grad()
def fold(model: nn.Module, mixings: Mixings) -> None:
    """Add to each base weight what the adapter adds, in place; what remains to do is to detach the adapter.

    Args:
        model: with its adapter attached.
        mixings: M of every gated linear; the others have the identity.

    Raises:
        ValueError: a gated linear has no mixing, so that nothing can be folded.
    """
    linears = wide_linears(model)
    missing = [name for name, wide in linears.items() if wide.gate is not None and name not in mixings]
    if missing:
        raise ValueError(f"no constant mixing for {missing[0]} and {len(missing) - 1} more")
    for name, wide in linears.items():
        # One at a time, so that a model's worth of deltas never stands in memory; the sum is rounded once.
        weight = wide.base.weight
        weight.copy_(weight.double() + delta_OD(wide, mixings.get(name)))


@torch.no_grad()
def delta_OD(wide: WideLinear, mixing_WR: Tensor | None) -> Tensor:
    """s B M A [O, D] in fp64, of which the small product M A is made first."""
    lora_A_RD, lora_B_OW = wide.lora_A.double(), wide.lora_B.double()
    mixed_WD = lora_A_RD if mixing_WR is None else mixing_WR.to(lora_A_RD) @ lora_A_RD
    return wide.scale * (lora_B_OW @ mixed_WD)
