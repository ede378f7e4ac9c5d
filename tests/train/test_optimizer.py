"""AdamW by its equation, with a rate for each part of the model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llava_moe.train.optimizer import OptimizerSettings, ParameterGroup, build_optimizer


def group(part: str, rate: float, *names: str) -> ParameterGroup:
    return SimpleNamespace(
        part=part, learning_rate=rate, parameters={name: nn.Parameter(torch.ones(2)) for name in names}
    )


GROUPS = [group("adapter", 1e-2, "a"), group("projector", 1e-3, "b", "c")]


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.tensor([0.5, -2.0], requires_grad=True) for name in ("a", "b", "c")}


def test_each_part_has_its_rate_and_its_tensors_in_their_order() -> None:
    given = tensors()
    adapter, projector = build_optimizer(GROUPS, given, OptimizerSettings(), fused=False).param_groups
    assert (adapter["part"], adapter["lr"], projector["part"], projector["lr"]) == ("adapter", 1e-2, "projector", 1e-3)
    assert [id(one) for one in adapter["params"]] == [id(given["a"])], "the tensor given, not the group's parameter"
    assert [id(one) for one in projector["params"]] == [id(given["b"]), id(given["c"])]


def test_two_updates_follow_the_equation() -> None:
    settings = OptimizerSettings(betas=(0.8, 0.95), epsilon=1e-3, weight_decay=0.1)
    given, rates = tensors(), {"a": 1e-2, "b": 1e-3, "c": 1e-3}
    optimizer = build_optimizer(GROUPS, given, settings, fused=False)
    expected = {name: one.detach().clone().double() for name, one in given.items()}
    m = {name: torch.zeros(2, dtype=torch.float64) for name in given}
    v = {name: torch.zeros(2, dtype=torch.float64) for name in given}
    for t, gradient in enumerate(([1.0, -3.0], [0.25, 2.0]), start=1):
        g = torch.tensor(gradient)
        for name, one in given.items():
            one.grad = g.clone()
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.95 * v[name] + 0.05 * g**2
            update = (m[name] / (1 - 0.8**t)) / ((v[name] / (1 - 0.95**t)).sqrt() + 1e-3)
            expected[name] = expected[name] * (1 - rates[name] * 0.1) - rates[name] * update
        optimizer.step()
    for name, one in given.items():
        assert (one - expected[name]).abs().max() < 1e-6, name


def test_the_defaults_are_those_of_llava_and_are_all_handed_on() -> None:
    (settings, *_) = build_optimizer(GROUPS, tensors(), OptimizerSettings(), fused=False).param_groups
    assert (settings["betas"], settings["eps"], settings["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.0)
    assert OptimizerSettings().gradient_clipping == 1.0


def test_one_kernel_is_asked_for_or_left_to_torch() -> None:
    assert build_optimizer(GROUPS, tensors(), OptimizerSettings(), fused=True).defaults["fused"] is True
    assert build_optimizer(GROUPS, tensors(), OptimizerSettings(), fused=False).defaults["fused"] is None


def test_a_parameter_without_a_tensor_is_an_error() -> None:
    with pytest.raises(KeyError, match="d"):
        build_optimizer([*GROUPS, group("new", 1.0, "d")], tensors(), OptimizerSettings(), fused=False)
