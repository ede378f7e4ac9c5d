"""Routers that are told which expert takes all."""

from __future__ import annotations

import pytest
import torch

from llava_moe.adapters.core.forced_expert import one_expert_takes_all
from llava_moe.adapters.core.router import TokenRouter


@pytest.mark.parametrize("expert", [0, 2, 5])
def test_all_tokens_go_to_one_expert_within_and_as_before_behind(expert: int) -> None:
    torch.manual_seed(0)
    routers, x_BTD = [TokenRouter(6, 3, "straight_through") for _ in range(2)], torch.randn(2, 40, 6)

    def choices() -> list[set[int]]:
        for router in routers:
            router.decide(x_BTD)
        return [set(one.routing.chosen_BT.flatten().tolist()) for one in routers if one.routing is not None]

    before = choices()
    assert all(len(one) > 1 for one in before)
    with one_expert_takes_all(routers, expert):
        assert choices() == [{expert % 3}] * 2
    assert choices() == before
