"""LLaVA-MoLE (arXiv 2401.16160): sparse LoRA experts on the MLP, one top-1 token router per block, LoRA elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from llava_moe.adapters.adapter import Fitting
from llava_moe.adapters.balance import LOAD_BALANCE_FORMS, load_balance_loss
from llava_moe.adapters.body import ALL_LINEARS, MLP_LINEARS, Body
from llava_moe.adapters.lora import check_low_rank, frozen_targets, low_rank_scale
from llava_moe.adapters.own_format import write_folder
from llava_moe.adapters.router import ROUTER_MODES, FollowRouter, TokenRouter
from llava_moe.adapters.segments import Segments
from llava_moe.adapters.wide import WideLinear
from llava_moe.errors import UserError


@dataclass(frozen=True)
class LlavaMole:
    """Per MLP block j = argmax softmax(W_r x + b_r); its linears compute W h + s * w_j * B_j A_j h, with one j for all.

    The paper's forward pass and the released code (forwchen/LLaVA-MoLE ``moe.py``) agree: the chosen expert is not
    multiplied by its probability. In the release the router therefore learns from the balance loss alone
    (``router="hard"``); ``straight_through`` computes the same values and lets the task reach the router.

    With ``num_experts=1`` there is no router and no balance loss, and the adapter is LoRA to the last bit.

    Attributes:
        num_experts: K, experts per MLP linear.
        r, lora_alpha, lora_dropout, use_rslora: of each expert and of the attention's LoRA, as in
            :class:`~llava_moe.adapters.Lora`.
        router: how an expert is weighted: ``straight_through``, ``hard``, ``gate`` or ``dense``; see
            :func:`~llava_moe.adapters.router.expert_weights`.
        load_balance_coef: weight of the balance loss in the objective; ``None`` becomes 0.01, or 0 with one expert.
        load_balance: ``per_layer`` or ``pooled`` (as released); see
            :func:`~llava_moe.adapters.balance.load_balance_loss`.
        target_modules: all linears to adapt, as in :class:`~llava_moe.adapters.Lora`.
        expert_modules: those of them that get experts; what shares a parent module shares its router. The parent's
            input is the residual stream's width.

    Raises:
        UserError: a value is out of range, or a balance loss is asked of one expert.
    """

    method: ClassVar[str] = "llava_mole"

    num_experts: int = 3
    r: int = 32
    lora_alpha: float = 64
    lora_dropout: float = 0.0
    router: str = "straight_through"
    load_balance_coef: float | None = None
    load_balance: str = "per_layer"
    target_modules: str | Sequence[str] = ALL_LINEARS
    expert_modules: str | Sequence[str] = MLP_LINEARS
    use_rslora: bool = False

    def __post_init__(self) -> None:
        check_low_rank(self.r, self.lora_alpha, self.lora_dropout)
        if self.num_experts < 1:
            raise UserError(f"adapter.num_experts={self.num_experts} must be at least 1")
        if self.router not in ROUTER_MODES:
            raise UserError(f"adapter.router={self.router!r} must be one of {', '.join(ROUTER_MODES)}")
        if self.load_balance not in LOAD_BALANCE_FORMS:
            known = ", ".join(LOAD_BALANCE_FORMS)
            raise UserError(f"adapter.load_balance={self.load_balance!r} must be one of {known}")
        coef = self.load_balance_coef
        if coef is not None and coef < 0:
            raise UserError(f"adapter.load_balance_coef={coef} must not be negative")
        if coef and self.num_experts == 1:
            raise UserError(f"adapter.load_balance_coef={coef} has nothing to balance with num_experts=1; leave it out")
        object.__setattr__(self, "load_balance_coef", (0.01 if self.num_experts > 1 else 0.0) if coef is None else coef)
        object.__setattr__(self, "target_modules", frozen_targets(self.target_modules))
        object.__setattr__(self, "expert_modules", frozen_targets(self.expert_modules))

    def dress(self, body: Body, segments: Segments) -> Fitting:
        """Banks of K experts with a router per block on the expert modules, LoRA on the other targets."""
        scale = low_rank_scale(self.r, self.lora_alpha, self.use_rslora)
        experts = body.select(self.expert_modules)
        linears: dict[str, WideLinear] = {}
        routers: dict[str, TokenRouter] = {}
        for name, base in body.select(self.target_modules).items():
            ranks, gate = {"": self.r}, None
            if name in experts:
                ranks = {f"experts.{k}": self.r for k in range(self.num_experts)}
                gate = self._follow(routers, name.rpartition(".")[0], body, base.weight.device)
            linears[name] = WideLinear(base, ranks, scale, gate, self.lora_dropout)
        if not experts.keys() & linears.keys():
            raise UserError(
                f"adapter.expert_modules={self.expert_modules} names nothing of target_modules={self.target_modules}"
            )
        if not routers:
            return Fitting(linears)
        load_balance = partial(load_balance_loss, form=self.load_balance)
        assert self.load_balance_coef is not None
        return Fitting(linears, routers, load_balance, self.load_balance_coef)

    def _follow(
        self, routers: dict[str, TokenRouter], block: str, body: Body, device: torch.device
    ) -> FollowRouter | None:
        """The gate of a bank in ``block``, whose router is made when its first bank asks for it."""
        if self.num_experts == 1:
            return None
        if block not in routers:
            routers[block] = TokenRouter(body.hidden_size, self.num_experts, self.router, device)
        return FollowRouter(routers[block])

    def write(self, folder: Path, body: Body, tensors: Mapping[str, Tensor]) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
        write_folder(folder, self.method, asdict(self), tensors)
