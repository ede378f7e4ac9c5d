"""A decoder's gated MLP, down(act(gate(x)) * up(x)), run so that its activation is not kept for the backward pass.

Shape suffixes: B rows, T tokens, N = B * T, D hidden, F feed-forward, K experts.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import Tensor, nn

from llava_moe.adapters.core.memory_efficient import activate
from llava_moe.adapters.core.router import FollowRouter, TokenRouter
from llava_moe.adapters.core.wide_linear import Source, WideLinear

# The forward pass of LlamaMLP and its kin in transformers, word for word but for the argument's name.
FORWARD = re.compile(
    r"self\.down_proj\(self\.act_fn\(self\.gate_proj\((\w+)\)\) \* self\.up_proj\(\1\)\)\s*return (down_proj|\w+)\s*$"
)


def is_gated_mlp(block: nn.Module) -> bool:
    """Whether a block is gate, up, down and an activation, and its own ``forward`` nothing but their product."""
    if "forward" in vars(block):  # somebody else runs it his own way
        return False
    if {name for name, _ in block.named_children()} - {"router"} != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    try:
        source = inspect.getsource(type(block).forward)
    except (OSError, TypeError):
        return False
    return FORWARD.search(source) is not None


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
    down.source = Source(activation, gate_BTF, up_BTF, h_BTF)
    try:
        return down(h_BTF)
    finally:
        down.source = None


def _follows(linear: WideLinear, router: TokenRouter) -> bool:
    return isinstance(linear.gate, FollowRouter) and linear.gate.router is router
