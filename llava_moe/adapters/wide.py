"""The wide linear: y = W x + s * B M(x) A x, the one equation of which every adapter here is a case.

Shape suffixes: B rows, T tokens, N = B * T, D in, O out, K experts, R bank width (the ranks of all experts together).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Gate(Protocol):
    """M(x): says which reading of a bank feeds which writing."""

    def __call__(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> Tensor:
        """Return M(x) z, of z's shape and dtype. ``x_BTD`` is the linear's input, ``z_BTR`` = A x."""
        ...


class WideLinear(nn.Module):
    """A linear with a bank of low-rank experts laid side by side: y = W x + s * B M(x) A x.

    A [R, D] reads and B [O, R] writes; expert k owns a span of rows of A and the same span of columns of B. M(x) is
    the gate's; no gate is the identity, which is LoRA (arXiv 2106.09685). A starts Kaiming-uniform with a = sqrt(5), B
    at zero, as in PEFT (``peft/tuners/lora/layer.py``) and in forwchen/LLaVA-MoLE (``moe.py``), so a fresh bank changes
    nothing. Both are made in the base weight's dtype, whatever the dtype the same seed gives the same start.

    Dropout is one mask per linear input that all experts read, after which only A sees it: with one expert this is
    PEFT's arithmetic, random numbers included. The released LLaVA-MoLE draws a mask per expert; a token that visits one
    expert cannot tell the difference. At ``dropout=0`` there is no dropout layer.

    Args:
        base: the linear to widen; it becomes the submodule ``base``. Whoever owns it stops its training.
        ranks: width of each named expert, in order. ``{"": r}`` is a bank without named experts.
        scale: s.
        gate: M(x); ``None`` is the identity.
        dropout: probability with which an element of A's input is zeroed in training.
    """

    def __init__(
        self,
        base: nn.Linear,
        ranks: Mapping[str, int],
        scale: float,
        gate: Gate | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.ranks, self.scale, self.gate = dict(ranks), scale, gate
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None
        weight = base.weight
        dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
        start = torch.empty(self.width, base.in_features, device=weight.device)
        # fan_in is D for the wide matrix as for each expert's slice, so one call draws every expert as PEFT would.
        nn.init.kaiming_uniform_(start, a=math.sqrt(5))
        self.lora_A = nn.Parameter(start.to(dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, self.width, dtype=dtype, device=weight.device))
        self.train(base.training)

    @property
    def width(self) -> int:
        """R, the sum of the ranks."""
        return sum(self.ranks.values())

    @property
    def weight(self) -> Tensor:
        """The base weight, for code that asks a linear for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base bias."""
        return self.base.bias

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return y [..., O] in the base linear's output dtype; ``x_BTD`` may have any leading dimensions."""
        # Two dimensions in, so that the base linear's result is no view and can take the sum in place below.
        y_NO = self.base(x_BTD.reshape(-1, x_BTD.shape[-1]))
        a_BTD = x_BTD if self.dropout is None else self.dropout(x_BTD)
        if not torch.is_autocast_enabled(a_BTD.device.type):
            a_BTD = a_BTD.to(self.lora_A.dtype)
        z_BTR = F.linear(a_BTD, self.lora_A)
        if self.gate is not None:
            z_BTR = self.gate(x_BTD, z_BTR, self)
        z_NR = z_BTR.reshape(-1, z_BTR.shape[-1])
        if z_NR.dtype != y_NO.dtype:
            y_NO = y_NO + (self.scale * F.linear(z_NR, self.lora_B)).to(y_NO.dtype)
        elif y_NO._is_view() or y_NO.dtype != self.lora_B.dtype:
            # ZeRO-3 hands module outputs on as views that nobody may write to; autocast casts for addmm, not addmm_.
            y_NO = torch.addmm(y_NO, z_NR, self.lora_B.t(), alpha=self.scale)
        else:
            # addmm rounds once and keeps no [N, O] product, in place no second y; the scale rides in it for nothing.
            y_NO = y_NO.addmm_(z_NR, self.lora_B.t(), alpha=self.scale)
        return y_NO.view(*x_BTD.shape[:-1], y_NO.shape[-1])

    def extra_repr(self) -> str:
        """Show the bank beside the base in ``print(model)``."""
        return f"ranks={self.ranks}, scale={self.scale}"

    def expert_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of each tensor of :meth:`split`, known without touching a (possibly partitioned) parameter."""
        shapes: dict[str, tuple[int, int]] = {}
        for expert, rank in self.ranks.items():
            shapes[_tensor_name(expert, "lora_A")] = (rank, self.in_features)
            shapes[_tensor_name(expert, "lora_B")] = (self.out_features, rank)
        return shapes

    def split(self, lora_A_RD: Tensor, lora_B_OR: Tensor) -> dict[str, Tensor]:
        """Cut a wide pair into one named pair per expert: ``experts.1.lora_A.weight`` [r, D], ``...lora_B.weight``."""
        ranks = list(self.ranks.values())
        parts: dict[str, Tensor] = {}
        for expert, a_rD, b_Or in zip(self.ranks, lora_A_RD.split(ranks, 0), lora_B_OR.split(ranks, 1), strict=True):
            parts[_tensor_name(expert, "lora_A")] = a_rD
            parts[_tensor_name(expert, "lora_B")] = b_Or
        return parts

    def join(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`split`."""
        lora_A_RD = torch.cat([parts[_tensor_name(expert, "lora_A")] for expert in self.ranks], 0)
        lora_B_OR = torch.cat([parts[_tensor_name(expert, "lora_B")] for expert in self.ranks], 1)
        return lora_A_RD, lora_B_OR


def _tensor_name(expert: str, side: str) -> str:
    return f"{expert}.{side}.weight" if expert else f"{side}.weight"
