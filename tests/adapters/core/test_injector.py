"""Modules, hooks and forwards are put into a model, and all of it is taken out again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llava_moe.adapters.core.injector import Injector
from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.router import TokenRouter
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from tests.tiny_models import smallest_llama

LEAVES = ("q_proj", "k_proj", "gate_proj", "up_proj", "down_proj")
CPU = torch.device("cpu")


def state_of(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What an adapter may change of a model: modules, patched forwards, hooks, what trains."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks)
        trains = tuple(parameter.requires_grad for parameter in module.parameters(recurse=False))
        found[name] = (id(module), vars(module).get("forward"), *map(len, hooks), trains)
    return found


def dressed(core: str) -> tuple[Injector, Any, dict[str, Any]]:
    model = smallest_llama().model.requires_grad_(True)
    target_model, seen = TargetModel.of(model), {"pre_hook": 0, "forward": 0}
    linears = {name: WideLinear(base, {"": 2}, 1.0) for name, base in target_model.select(LEAVES).items()}

    def pre_hook(*_: Any) -> None:
        seen["pre_hook"] += 1

    def forward(own: Any, *args: Any, **kwargs: Any) -> Any:
        seen["forward"] += 1
        return own(*args, **kwargs)

    injection = Injection(
        linears,
        {"layers.0.mlp": TokenRouter(16, 2, "hard", CPU)},
        {"layers.0.extra": nn.Linear(1, 1)},
        {"layers.0.mlp": pre_hook},
        {"layers.0": forward},
    )
    return Injector(target_model, injection, Segments(), core), model, seen


@pytest.mark.parametrize("core", ["lean", "autograd"])
def test_what_is_put_in_runs_and_is_taken_out_to_the_last_hook(core: str) -> None:
    injector, model, seen = dressed(core)
    model.layers[0].forward = model.layers[0].forward  # somebody else's comes back
    before, output = state_of(model), model(torch.arange(4)[None]).last_hidden_state
    injector.put_in()
    assert isinstance(model.layers[0].mlp.up_proj, WideLinear) and isinstance(model.layers[0].mlp.router, TokenRouter)
    assert model.layers[0].mlp.up_proj.core == core and "layers.0.extra" in dict(model.named_modules())
    assert not any(parameter.requires_grad for parameter in model.layers[0].mlp.up_proj.base.parameters())
    assert torch.equal(model(torch.arange(4)[None]).last_hidden_state, output)  # B is zero
    assert seen == {"pre_hook": 1, "forward": 1}
    injector.take_out()
    assert state_of(model) == before
    assert torch.equal(model(torch.arange(4)[None]).last_hidden_state, output) and seen["forward"] == 1


def test_only_the_lean_core_reads_siblings_together_and_reroutes_gated_mlps() -> None:
    for core, is_lean in (("lean", True), ("autograd", False)):
        injector, model, _ = dressed(core)
        injector.put_in()
        layer = model.layers[0]
        assert (layer.self_attn.q_proj.siblings is layer.self_attn.k_proj.siblings) is is_lean
        assert ("forward" in vars(layer.mlp)) is is_lean
