"""LLaVA-MoLE (arXiv 2401.16160): sparse LoRA experts on the MLP, one top-1 token router per block, LoRA elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from llava_moe.adapters.core.gated_mlp import is_gated_mlp
from llava_moe.adapters.core.load_balance import LOAD_BALANCE_FORMS, load_balance_loss
from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.router import ROUTER_MODES, FollowRouter, RecomputedRouterSlot, TokenRouter
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.sizes_asked import refuse_oversized
from llava_moe.adapters.core.target_model import ALL_LINEARS, MLP_LINEARS, TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.adapters.formats.native_format import write_folder
from llava_moe.adapters.methods.lora import check_low_rank, frozen_targets, low_rank_scale
from llava_moe.errors import UserError

DISPATCHES = ("auto", "masked", "sorted")
# From this bank width K * r on, multiplying every token with all experts costs more than moving tokens into expert
# order (predicted for H200; for A100 from 192 on, for H100 from 320).
NARROWEST_SORTED = 256


@dataclass(frozen=True)
class LlavaMole:
    """Per MLP block j = argmax softmax(W_r x + b_r); its linears compute W h + s * w_j * B_j A_j h, with one j for all.

    The paper's forward pass and the released code (forwchen/LLaVA-MoLE ``moe.py``) agree: the chosen expert is not
    multiplied by its probability. In the release the router therefore learns from the balance loss alone
    (``router="hard"``); ``straight_through`` computes the same values and lets the task reach the router.

    With ``num_experts=1`` there is no router and no balance loss, and the adapter is LoRA to the last bit.

    Attributes:
        num_experts: K, experts per MLP linear; or a list of one K for each decoder layer, 1 being plain LoRA.
        r, lora_alpha, lora_dropout, use_rslora: of each expert and of the attention's LoRA, as in
            :class:`~llava_moe.adapters.Lora`.
        router: how an expert is weighted: ``straight_through``, ``hard``, ``gate`` or ``dense``; see
            :func:`~llava_moe.adapters.core.router.expert_weights`.
        load_balance_coef: weight of the balance loss in the objective; ``None`` becomes 0.01, or 0 with one expert.
        load_balance: ``per_layer`` or ``pooled`` (as released); see
            :func:`~llava_moe.adapters.core.load_balance.load_balance_loss`.
        target_modules: all linears to adapt, as in :class:`~llava_moe.adapters.Lora`.
        expert_modules: those of them that get experts; what shares a parent module shares its router. The parent's
            input is the residual stream's width.
        expert_layers: the decoder layers whose expert modules get experts, the others' get plain LoRA; ``None``: all.
        shared_A: one A for all experts of a linear and a B for each, as in HydraLoRA (arXiv 2404.19245; Clin0212/
            HydraLoRA ``MLLM-HydraLoRA/.../moe.py``).
        dispatch: how the chosen expert is computed, with equal results. ``masked`` multiplies every token with the
            whole bank and silences what was not chosen; ``sorted`` runs the MLP in the order of its tokens' experts,
            each meeting its own alone; ``auto`` sorts where one expert is chosen and K * r is 256 or more.

    Raises:
        UserError: a value is out of range, or a balance loss is asked of one expert.
    """

    method: ClassVar[str] = "llava_mole"
    decides_per_example: ClassVar[bool] = False
    later_fields: ClassVar[tuple[str, ...]] = ("expert_layers", "shared_A", "dispatch")

    num_experts: int | Sequence[int] = 3
    r: int = 32
    lora_alpha: float = 64
    lora_dropout: float = 0.0
    router: str = "straight_through"
    load_balance_coef: float | None = None
    load_balance: str = "per_layer"
    target_modules: str | Sequence[str] = ALL_LINEARS
    expert_modules: str | Sequence[str] = MLP_LINEARS
    use_rslora: bool = False
    expert_layers: Sequence[int] | None = None
    shared_A: bool = False
    dispatch: str = "auto"

    def __post_init__(self) -> None:
        check_low_rank(self.r, self.lora_alpha, self.lora_dropout)
        if not isinstance(self.num_experts, int):
            object.__setattr__(self, "num_experts", tuple(self.num_experts))
        if self.expert_layers is not None:
            object.__setattr__(self, "expert_layers", tuple(self.expert_layers))
        if self._most_experts < 1 or self._fewest_experts < 1:
            raise UserError(f"num_experts={self.num_experts} must be at least 1")
        if self.dispatch not in DISPATCHES:
            raise UserError(f"dispatch={self.dispatch!r} must be one of {', '.join(DISPATCHES)}")
        if self.dispatch == "sorted" and (self.router == "dense" or self.shared_A):
            why = "router=dense uses all experts" if self.router == "dense" else "shared_A reads with one A"
            raise UserError(f"dispatch=sorted needs tokens that visit one expert, but {why}: leave it out")
        if self.router not in ROUTER_MODES:
            raise UserError(f"router={self.router!r} must be one of {', '.join(ROUTER_MODES)}")
        if self.load_balance not in LOAD_BALANCE_FORMS:
            known = ", ".join(LOAD_BALANCE_FORMS)
            raise UserError(f"load_balance={self.load_balance!r} must be one of {known}")
        coef = self.load_balance_coef
        if coef is not None and coef < 0:
            raise UserError(f"load_balance_coef={coef} must not be negative")
        if coef and self._most_experts == 1:
            raise UserError(f"load_balance_coef={coef} has nothing to balance with one expert; leave it out")
        default = 0.01 if self._most_experts > 1 else 0.0
        object.__setattr__(self, "load_balance_coef", default if coef is None else coef)
        object.__setattr__(self, "target_modules", frozen_targets(self.target_modules))
        object.__setattr__(self, "expert_modules", frozen_targets(self.expert_modules))

    @property
    def _most_experts(self) -> int:
        return self.num_experts if isinstance(self.num_experts, int) else max(self.num_experts, default=0)

    @property
    def _fewest_experts(self) -> int:
        return self.num_experts if isinstance(self.num_experts, int) else min(self.num_experts, default=0)

    def build(self, target_model: TargetModel, segments: Segments) -> Injection:
        """Banks of K experts with a router per block on the expert modules, LoRA on the other targets."""
        scale = low_rank_scale(self.r, self.lora_alpha, self.use_rslora)
        experts, counts = (
            target_model.select(self.expert_modules, setting="expert_modules"),
            self._experts_by_layer(target_model),
        )
        if not experts.keys() & target_model.select(self.target_modules).keys():
            raise UserError(
                f"expert_modules={self.expert_modules} names nothing of target_modules={self.target_modules}"
            )
        sizes = {"r": self.r, "num_experts": self._most_experts}
        refuse_oversized(target_model.select(self.target_modules), sizes, self.r)
        refuse_oversized(experts, sizes, self.r * self._most_experts)
        linears: dict[str, WideLinear] = {}
        routers: dict[str, TokenRouter] = {}
        last_recomputed = RecomputedRouterSlot()
        for name, base in target_model.select(self.target_modules).items():
            layer = target_model.layer_of(name)
            num_experts = self._most_experts if layer is None else counts.get(layer, 0)
            if name not in experts or not num_experts:
                linears[name] = WideLinear(base, {"": self.r}, scale, dropout=self.lora_dropout)
                continue
            ranks = {f"experts.{k}": self.r for k in range(num_experts)}
            read_ranks = {"shared": self.r} if self.shared_A else None
            block = name.rpartition(".")[0]
            gate = (
                self._follow(routers, block, target_model, num_experts, base, last_recomputed)
                if num_experts > 1
                else None
            )
            linears[name] = WideLinear(base, ranks, scale, gate, self.lora_dropout, read_ranks)
        if not routers:
            return Injection(linears)
        load_balance = partial(load_balance_loss, form=self.load_balance)
        assert self.load_balance_coef is not None
        return Injection(linears, routers, load_balance=load_balance, load_balance_coef=self.load_balance_coef)

    def _experts_by_layer(self, target_model: TargetModel) -> dict[int, int]:
        """K of each decoder layer that gets experts."""
        num_layers = target_model.num_layers
        counts = [self.num_experts] * num_layers if isinstance(self.num_experts, int) else list(self.num_experts)
        if len(counts) != num_layers:
            listed = f"[{','.join(map(str, counts))}]"
            raise UserError(
                f"num_experts={listed} lists {len(counts)} layers, the model has {num_layers}: give one number "
                "for all layers, or one for each"
            )
        chosen = range(num_layers) if self.expert_layers is None else self.expert_layers
        strangers = [layer for layer in chosen if not 0 <= layer < num_layers]
        if strangers or not chosen:
            raise UserError(f"expert_layers={list(chosen)} must name layers from 0 to {num_layers - 1}")
        if self.load_balance == "pooled" and len({counts[layer] for layer in chosen} - {1}) > 1:
            raise UserError("load_balance=pooled adds up layers of one num_experts: use per_layer")
        return {layer: counts[layer] for layer in chosen}

    def _follow(
        self,
        routers: dict[str, TokenRouter],
        block: str,
        target_model: TargetModel,
        num_experts: int,
        base: nn.Linear,
        last_recomputed: RecomputedRouterSlot,
    ) -> FollowRouter:
        """The gate of a bank in ``block``, whose router is made when its first bank asks for it."""
        if block not in routers:
            is_sorted = self._sorts(target_model.model.get_submodule(block), block, num_experts)
            weight = base.weight
            routers[block] = TokenRouter(
                target_model.hidden_size,
                num_experts,
                self.router,
                weight.device,
                is_sorted,
                weight.dtype,
                last_recomputed,
            )
        return FollowRouter(routers[block], self.shared_A)

    def _sorts(self, block: nn.Module, name: str, num_experts: int) -> bool:
        if self.dispatch == "sorted" and not is_gated_mlp(block):
            raise UserError(f"dispatch=sorted runs a gated MLP, which {name} is not: use masked")
        if self.dispatch != "auto":
            return self.dispatch == "sorted"
        chooses_one = self.router != "dense" and not self.shared_A
        return chooses_one and num_experts * self.r >= NARROWEST_SORTED and is_gated_mlp(block)

    def write(self, folder: Path, target_model: TargetModel, tensors: Mapping[str, Tensor]) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
        write_folder(folder, target_model, self.method, asdict(self), tensors)
