"""A decoder's gated MLP, down(act(gate(x)) * up(x)), run so that its activation is not kept for the backward pass.

Shape suffixes: B rows, T tokens, N = B * T, D hidden, F feed-forward, K experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from llava_moe.adapters.core.memory_efficient import activate
from llava_moe.adapters.core.router import FollowRouter, TokenRouter
from llava_moe.adapters.core.wide_linear import GatedActivation, WideLinear

# What a forward pass may raise that does more with its input than call the block's parts and multiply.
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class _Value:
    """What stands for a tensor while a forward pass is traced: the name of what made it, and from what.

    It is called with, multiplied by another, and nothing else; so no operation goes unseen, whatever its numbers.
    """

    made_by: str
    of: tuple[_Value, ...] = ()

    def __mul__(self, other: object) -> _Value:
        return _Value("*", (self, other)) if isinstance(other, _Value) else NotImplemented

    def __bool__(self) -> bool:
        raise TypeError("a forward pass that looks at its values is no plain product")


def is_gated_mlp(block: nn.Module) -> bool:
    """Whether a block is gate, up, down and an activation, and its own ``forward`` nothing but their product.

    The forward pass is run on values that only record what is done with them: no numbers, so neither a clamp nor a cast
    nor dropout is overlooked, and nothing is taken from random generators.
    """
    if "forward" in vars(block):  # another library patched it
        return False
    if {name for name, _ in block.named_children()} - {"router"} != _PARTS:
        return False
    try:
        # What it does while training may differ from what it does now.
        traced = [type(block).forward(_traceable(block, training), _INPUT) for training in (False, True)]
    except _REFUSALS:
        return False
    return all(one in _PRODUCTS for one in traced)


def _traceable(block: nn.Module, training: bool) -> Any:
    """The block with its settings, training or not, and with parts that record their calls."""
    twin: Any = object.__new__(type(block))
    vars(twin).update(vars(block) | {"training": training})
    vars(twin)["_modules"] = {name: partial(_record, name) for name in _PARTS}
    return twin


def _record(part: str, value: _Value) -> _Value:
    return _Value(part, (value,))


_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_INPUT = _Value("input")
_ACTIVE, _UP = _record("act_fn", _record("gate_proj", _INPUT)), _record("up_proj", _INPUT)
_PRODUCTS = (_record("down_proj", _ACTIVE * _UP), _record("down_proj", _UP * _ACTIVE))


def forward_gated_mlp(block: Any, *args: Tensor, **kwargs: Tensor) -> Tensor:
    """What the block's own ``forward`` computes; in expert order where its router says so.

    Where tokens are sorted, the whole block runs on them in that order, so they are moved twice, not once for each
    linear; every expert then multiplies a run of neighbouring rows.
    """
    (x_BTD,) = (*args, *kwargs.values())
    router = getattr(block, "router", None)
    if not isinstance(router, TokenRouter) or not router.sorts():
        return _gated_product(block, x_BTD)
    order_N, inverse_N, runs = router.sort()
    x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
    followers = [child for child in block.children() if isinstance(child, WideLinear) and _follows(child, router)]
    try:
        for follower in followers:
            follower.runs = runs
        y_ND = _gated_product(block, x_ND.index_select(0, order_N).unsqueeze(0)).squeeze(0)
    finally:
        for follower in followers:
            follower.runs = None
    return y_ND.index_select(0, inverse_N).view(x_BTD.shape)


def _gated_product(block: Any, x_BTD: Tensor) -> Tensor:
    gate_BTF, up_BTF = block.gate_proj(x_BTD), block.up_proj(x_BTD)
    down = block.down_proj
    # Not the module's call: hooks on modules, such as those of torch's FLOP counter, do not run inside a backward pass.
    activation = block.act_fn.forward
    if block.act_fn._forward_hooks or block.act_fn._forward_pre_hooks:
        return down(block.act_fn(gate_BTF) * up_BTF)
    h_BTF = activate(gate_BTF, up_BTF, activation)
    if not isinstance(down, WideLinear):
        return down(h_BTF)
    # Left beside the call, not in it: engines wrap the tensors of a call and know no other arguments.
    down.source = GatedActivation(activation, gate_BTF, up_BTF, h_BTF)
    try:
        return down(h_BTF)
    finally:
        down.source = None


def _follows(linear: WideLinear, router: TokenRouter) -> bool:
    return isinstance(linear.gate, FollowRouter) and linear.gate.router is router
