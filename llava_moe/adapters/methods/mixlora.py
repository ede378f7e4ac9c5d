"""Conditional MixLoRA (arXiv 2402.15896): r of E low-rank factors chosen for each example, on every linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.sizes_asked import refuse_oversized
from llava_moe.adapters.core.target_model import ALL_LINEARS, TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.adapters.formats.native_format import write_folder
from llava_moe.adapters.methods.lora import check_low_rank, frozen_targets
from llava_moe.adapters.methods.mixlora_gate import ROUTER_GRADS, ROUTINGS, FactorGate
from llava_moe.adapters.methods.mixlora_released import ReleasedGate, ReleasedLinear
from llava_moe.errors import UserError


@dataclass(frozen=True)
class MixLora:
    """y = W x + s * sum_i b_{K_i} (a_{J_i} . x), with J the r chosen of E rows a of A and K those of E columns b of B.

    p_A = softmax(W_A h) and p_B = softmax(W_B h) + softmax(sum_k softmax(A[J_k] W_AB[k])), with h the mean of the
    linear's input over the example's prompt; the r highest of each are chosen, and the i-th best of one is paired with
    the i-th best of the other. s = lora_alpha / r. The update of W is never built: see
    :class:`~llava_moe.adapters.methods.mixlora_gate.FactorGate`.

    Factors are chosen, not weighted, and an index passes no gradient: in the release (VT-NLP/MixLoRA af5cc3f) routers
    stay where they started (``router_grad="none"``). ``straight_through`` computes the same values and lets the task
    reach them. The release further reads answer and padding, decides again for every decoded token and contracts W_AB
    otherwise than the paper: ``as_released``, see :mod:`~llava_moe.adapters.methods.mixlora_released`.

    Attributes:
        num_factors: E.
        r: how many of them serve an example.
        lora_alpha: the scale's numerator; ``None`` becomes 2r, or the release's 2E with ``as_released``.
        lora_dropout: probability of zeroing an element of A's input in training.
        conditional: whether the choice of B depends on that of A (CFS); without, p_B = softmax(W_B h) (IFS).
        router_grad: ``straight_through`` or ``none``; always ``none`` with ``as_released``.
        routing: what the choice is made from: ``instance``, ``task``, ``token`` or ``random``.
        target_modules: linears to adapt, as in :class:`~llava_moe.adapters.Lora`.
        as_released: compute what the released code does, for comparison.

    Raises:
        UserError: a value is out of range, or ``as_released`` is asked for with a routing that it does not have.
    """

    method: ClassVar[str] = "mixlora"
    decides_per_example: ClassVar[bool] = True

    num_factors: int = 16
    r: int = 4
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    conditional: bool = True
    router_grad: str = "straight_through"
    routing: str = "instance"
    target_modules: str | Sequence[str] = ALL_LINEARS
    as_released: bool = False

    def __post_init__(self) -> None:
        if self.lora_alpha is None:
            object.__setattr__(self, "lora_alpha", 2 * (self.num_factors if self.as_released else self.r))
        assert self.lora_alpha is not None
        check_low_rank(self.r, self.lora_alpha, self.lora_dropout)
        if self.r > self.num_factors:
            raise UserError(f"r={self.r} factors cannot be chosen of num_factors={self.num_factors}: lower r")
        for name, known in (("router_grad", ROUTER_GRADS), ("routing", ROUTINGS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")
        if self.as_released:
            if self.routing != "instance":
                raise UserError(f"as_released routes by instance, not by {self.routing}: leave one out")
            object.__setattr__(self, "router_grad", "none")
        object.__setattr__(self, "target_modules", frozen_targets(self.target_modules))

    def build(self, target_model: TargetModel, segments: Segments) -> Injection:
        """A bank of E factors with a gate of its own on every target."""
        chosen = target_model.select(self.target_modules)
        refuse_oversized(chosen, {"num_factors": self.num_factors}, self.num_factors)
        return Injection({name: self._widen(base, target_model, segments) for name, base in chosen.items()})

    def _widen(self, base: nn.Linear, target_model: TargetModel, segments: Segments) -> WideLinear:
        build_gate, build_linear = (ReleasedGate, ReleasedLinear) if self.as_released else (FactorGate, WideLinear)
        gate = build_gate(
            segments,
            self.num_factors,
            self.r,
            base.in_features,
            target_model.hidden_size,
            self.conditional,
            self.routing,
            self.router_grad == "straight_through",
            base.weight.device,
            base.weight.dtype,
        )
        ranks = {f"factors.{e}": 1 for e in range(self.num_factors)}
        assert self.lora_alpha is not None
        return build_linear(base, ranks, self.lora_alpha / self.r, gate, self.lora_dropout)

    def write(self, folder: Path, target_model: TargetModel, tensors: Mapping[str, Tensor]) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
        write_folder(folder, target_model, self.method, asdict(self), tensors)
