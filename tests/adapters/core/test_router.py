"""The token router and the weights that it hands to the experts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from llava_moe.adapters.core.router import ROUTER_MODES, TokenRouter, expert_weights


def decided(mode: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, requires_grad=True)
    probs = logits.softmax(-1)
    return logits, probs, expert_weights(probs, probs.argmax(-1), mode)


def test_straight_through_has_the_value_of_hard_to_the_bit() -> None:
    _, probs, soft = decided("straight_through")
    _, _, hard = decided("hard")
    assert torch.equal(soft, hard)
    assert torch.equal(hard, torch.nn.functional.one_hot(probs.argmax(-1), 4).float())


def test_gate_is_the_chosen_probability_and_dense_all_of_them() -> None:
    _, probs, gate = decided("gate")
    top = probs.max(-1, keepdim=True)
    assert torch.equal(gate.gather(-1, top.indices), top.values)
    assert (gate != 0).sum() == 10
    _, probs, dense = decided("dense")
    assert torch.equal(dense, probs)


def test_straight_through_gradient_is_that_of_the_chosen_probability_alone() -> None:
    upstream = torch.arange(40.0).view(2, 5, 4)
    logits, probs, soft = decided("straight_through")
    (got,) = torch.autograd.grad(soft, logits, upstream, retain_graph=True)
    chosen = probs.argmax(-1, keepdim=True)
    (expected,) = torch.autograd.grad(probs.gather(-1, chosen), logits, upstream.gather(-1, chosen))
    assert torch.equal(got, expected)


def test_hard_weights_carry_no_gradient() -> None:
    assert not decided("hard")[2].requires_grad


def test_ties_go_to_the_lower_index() -> None:
    router = TokenRouter(3, 4, "hard")
    nn.init.zeros_(router.weight), nn.init.zeros_(router.bias)
    router.decide(torch.randn(1, 6, 3))
    assert router.routing is not None and router.routing.chosen_BT.tolist() == [[0] * 6]


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="soft"):
        decided("soft")


@pytest.mark.parametrize("autocast", [False, True])
def test_weights_stay_fp32_in_a_cast_model_and_logits_are_fp32(autocast: bool) -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(8, 8), TokenRouter(8, 3, "dense"))
    router = block[1]
    assert isinstance(router, TokenRouter)
    before = router.weight.detach().clone()
    block.to(torch.bfloat16)
    assert block[0].weight.dtype == torch.bfloat16
    assert torch.equal(router.weight, before) and router.bias.dtype == torch.float32
    x = torch.randn(1, 5, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        router.decide(x)
    assert router.routing is not None
    expected = (x.float() @ router.weight.T + router.bias).softmax(-1)
    torch.testing.assert_close(router.routing.probs_BTK, expected, atol=1e-6, rtol=1e-6)


def test_weights_that_an_engine_rounded_are_still_computed_with_in_fp32() -> None:
    torch.manual_seed(0)
    router = TokenRouter(64, 3, "dense")
    router.weight.data, router.bias.data = router.weight.data.bfloat16(), router.bias.data.bfloat16()
    x = torch.randn(1, 5, 64, dtype=torch.bfloat16)
    logits = router(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, x.float() @ router.weight.float().T + router.bias.float(), atol=1e-5, rtol=1e-5)


def test_moving_a_router_moves_it() -> None:
    assert TokenRouter(4, 2, "hard").to("meta").weight.device.type == "meta"
    assert TokenRouter(4, 2, "hard", torch.device("meta")).to_empty(device="cpu").weight.device.type == "cpu"


@pytest.mark.parametrize("mode", ROUTER_MODES)
def test_router_that_has_run_can_be_copied(mode: str) -> None:
    router = TokenRouter(4, 2, mode)
    router.decide(torch.randn(1, 3, 4))
    twin = copy.deepcopy(router)
    assert torch.equal(twin.weight, router.weight) and twin.routing is None and router.routing is not None


def test_start_is_that_of_a_linear_with_bias() -> None:
    torch.manual_seed(4)
    router = TokenRouter(6, 3, "hard")
    torch.manual_seed(4)
    linear = nn.Linear(6, 3)
    assert torch.equal(router.weight, linear.weight) and torch.equal(router.bias, linear.bias)
