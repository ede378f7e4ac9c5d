"""The token router of LLaVA-MoLE: a softmax over experts, and the weights that the experts of one block follow.

Shape suffixes: B rows, T tokens, N = B * T, D hidden, S examples, K experts, C choices, R bank width (reading), W
(writing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.backward_pass import is_recomputing
from llava_moe.adapters.core.memory_efficient import ExpertGroups, read
from llava_moe.adapters.core.wide_linear import WideLinear

ROUTER_MODES = ("straight_through", "hard", "gate", "dense")


@dataclass(frozen=True)
class Routing:
    """What a router decided in its last forward pass: ``probs_BTK`` fp32, ``chosen_BT`` int64 (argmax of probs)."""

    probs_BTK: Tensor
    chosen_BT: Tensor


@dataclass(frozen=True)
class ExampleRouting:
    """A decision made once for each example.

    Attributes:
        probs_SK: fp32, what the choice was made from; sums to 1 over the K.
        chosen_SC: int64, the C that were chosen, best first; ``None`` where all K serve by their probabilities.
        segments_BT: the example of each token, -1 for none.
    """

    probs_SK: Tensor
    chosen_SC: Tensor | None
    segments_BT: Tensor


def expert_weights(probs_BTK: Tensor, chosen_BT: Tensor, mode: str) -> Tensor:
    """The weight of every expert for every token, fp32 [B, T, K].

    With j the chosen expert and sg the stop-gradient:

    - ``straight_through``: w_j = 1 + (p_j - sg(p_j)), others 0. The bracket comes first, so the value is exactly 1 and
      the forward pass is ``hard``'s; the router learns from the task.
    - ``hard``: w_j = 1, others 0 (forwchen/LLaVA-MoLE ``moe.py``, ``forward_lora_moe_sparse``); the router learns from
      the balance loss alone.
    - ``gate``: w_j = p_j, others 0 (Switch Transformer, arXiv 2101.03961, eq. 2).
    - ``dense``: w = p (``forward_lora_moe`` of the same file).
    """
    if mode == "dense":
        return probs_BTK
    top_BT1 = probs_BTK.gather(-1, chosen_BT.unsqueeze(-1))
    if mode == "straight_through":
        top_BT1 = 1 + (top_BT1 - top_BT1.detach())
    elif mode == "hard":
        top_BT1 = torch.ones_like(top_BT1)
    elif mode != "gate":
        raise ValueError(f"router mode {mode!r} is none of {ROUTER_MODES}")
    return torch.zeros_like(probs_BTK).scatter(-1, chosen_BT.unsqueeze(-1), top_BT1)


class KeepsDtype(nn.Module):
    """A module whose parameters move with a model but keep their dtype when it is cast, as routers must."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KeepsDtype:
        def move_without_casting(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move_without_casting, recurse)
        return self


class RecomputedRouterSlot:
    """The router that was recomputed last, of those that share this: the one whose decision is still held."""

    def __init__(self) -> None:
        self.router: TokenRouter | None = None

    def becomes(self, router: TokenRouter) -> None:
        """Let go of the last one's weights, and with them of its layer's recomputed activations."""
        if self.router is not None and self.router is not router:
            self.router.forget_weights()
        self.router = router


class TokenRouter(KeepsDtype):
    """p = softmax(W x + b) per token, j = argmax p; one router per MLP block (arXiv 2401.16160).

    The weights are fp32 and stay so when the model is cast; logits and softmax are computed in fp32 at least, under
    autocast too and even where an engine rounds the weights. They start as ``nn.Linear``'s do. No noise, no capacity,
    no temperature, ties to the lower index.

    ``forward`` reads the weights and returns the logits, and the decision is made from what it returned: an engine that
    partitions weights (ZeRO-3) brings them back for the backward pass by a hook on that output.

    The last decision is kept by assignment, never appended: recomputation under activation checkpointing runs a router
    twice. What it decides then is for its block alone: :attr:`routing` stays the forward pass's, and the weights go
    when the next router is recomputed, since through their graph they hold all that their layer computed again.
    """

    def __init__(
        self,
        in_features: int,
        num_experts: int,
        mode: str,
        device: torch.device | None = None,
        is_sorted: bool = False,
        dtype: torch.dtype = torch.float32,
        last_recomputed: RecomputedRouterSlot | None = None,
    ) -> None:
        super().__init__()
        self.last_recomputed = last_recomputed or RecomputedRouterSlot()
        linear = nn.Linear(in_features, num_experts, dtype=router_dtype(dtype), device=device)
        self.weight, self.bias, self.mode, self.is_sorted = linear.weight, linear.bias, mode, is_sorted
        self.num_experts = num_experts
        self.routing: Routing | None = None
        self.weights_BTK: Tensor | None = None
        self.chosen_BT: Tensor | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the logits [B, T, K] for the block input ``x_BTD``, fp32."""
        dtype = torch.promote_types(torch.promote_types(self.weight.dtype, torch.float32), x_BTD.dtype)
        with torch.autocast(x_BTD.device.type, enabled=False):
            # Plain F.linear would keep an fp32 copy of x for the gradient of W, a third of what the whole MLP keeps.
            z_NK = read(x_BTD.reshape(-1, x_BTD.shape[-1]), [self.weight.to(dtype)])
            return (z_NK + self.bias.to(dtype)).view(*x_BTD.shape[:-1], self.num_experts)

    def decide(self, x_BTD: Tensor) -> None:
        """Route every token of ``x_BTD``; leaves :attr:`routing` and :attr:`weights_BTK` (fp32) behind."""
        probs_BTK = self(x_BTD).softmax(-1)
        chosen_BT = probs_BTK.argmax(-1)
        if is_recomputing():
            self.last_recomputed.becomes(self)
        else:
            self.routing = Routing(probs_BTK, chosen_BT)
        self.chosen_BT = chosen_BT
        self.weights_BTK = expert_weights(probs_BTK, chosen_BT, self.mode)

    def forget_weights(self) -> None:
        """Drop :attr:`weights_BTK`, which no linear of the block asks for any more."""
        self.weights_BTK = None

    def sorts(self) -> bool:
        """Whether the block is to run in expert order: asked for, and no autocast, for which that form is not made."""
        return self.is_sorted and not torch.is_autocast_enabled(self.weight.device.type)

    def sort(self) -> tuple[Tensor, Tensor, ExpertGroups]:
        """Order the tokens of the last decision by expert, and its weights with them, as [1, N, 1].

        Returns:
            order_N and inverse_N: rows in the order of their experts, ties in their own, and the way back; the runs.
        """
        if self.chosen_BT is None or self.weights_BTK is None:
            raise ValueError("a router decides before it sorts: call the whole block")
        chosen_N = self.chosen_BT.flatten()
        order_N = chosen_N.argsort(stable=True)
        weights_N1 = self.weights_BTK.flatten(0, -2).gather(-1, chosen_N.unsqueeze(-1))
        self.weights_BTK = weights_N1.index_select(0, order_N).unsqueeze(0)
        sizes = torch.bincount(chosen_N, minlength=self.num_experts)
        return order_N, order_N.argsort(), ExpertGroups(tuple(sizes.tolist()))

    def extra_repr(self) -> str:
        """Show size and mode in ``print(model)``."""
        return f"in_features={self.weight.shape[-1]}, num_experts={self.weight.shape[0]}, mode={self.mode!r}"

    def __getstate__(self) -> dict[str, Any]:
        # The last decision hangs on an autograd graph, which neither deepcopy nor pickle can take along.
        return self.__dict__ | {"routing": None, "weights_BTK": None, "last_recomputed": RecomputedRouterSlot()}


class FollowRouter:
    """The gate of a bank that obeys a block's router: M(x) = diag(w (x) 1_r).

    Where all experts share one A it is w (x) I_r: each expert's B gets what the one A read, by the expert's weight.
    """

    def __init__(self, router: TokenRouter, shares_reader: bool = False) -> None:
        self.router, self.shares_reader = router, shares_reader

    def __call__(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """The weights that the router left behind; it runs before the linears of its block."""
        weights_BTK = self.router.weights_BTK
        if weights_BTK is None:
            raise ValueError("the router of this linear's block has not run: call the whole block")
        return (weights_BTK,)

    def mix(self, z_BTR: Tensor, *decision: Tensor) -> Tensor:
        """Multiply each expert's span of ``z_BTR`` by its weight."""
        (weights_BTK,) = decision
        z_BTKr = z_BTR.unflatten(-1, (1 if self.shares_reader else weights_BTK.shape[-1], -1))
        return (z_BTKr * weights_BTK.to(z_BTR.dtype).unsqueeze(-1)).flatten(-2)


def router_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a router is made in on a base of ``dtype``: fp32, or fp64 where the base is."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float32


def route_first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Forward pre-hook of a block that owns a ``router``: the decision is made from the block's input, before use."""
    assert isinstance(module.router, TokenRouter)
    module.router.decide(args[0] if args else next(iter(kwargs.values())))
