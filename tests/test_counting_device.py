"""The counting device computes as the CPU does, and sees each kernel and each wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.counting_device import DEVICE, Counting, OnDevice, move

NUMBERS = torch.tensor([3.0, -1.0, 2.0])
WAITS: dict[str, Callable[[Any], Any]] = {
    "a value is read": lambda x: x.sum().item(),
    "a condition is asked": lambda x: bool(x[0] > 0),
    "a list is made": lambda x: x.tolist(),
    "a copy comes back": lambda x: x.cpu(),
    "a mask chooses": lambda x: x[x > 0],
    "places are looked for": lambda x: (x > 0).nonzero(),
    "bins are counted": lambda x: torch.bincount(x.long().abs()),
    "two are compared": lambda x: torch.equal(x, x),
    "numbers are sent": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a tensor is sent": lambda x: NUMBERS.to(x.device),
    "a tensor is written to one of the host": lambda x: torch.zeros(3).copy_(x),
}
NO_WAITS: dict[str, Callable[[Any], Any]] = {
    "a tensor is sent and not waited for": lambda x: NUMBERS.to(x.device, non_blocking=True),
    "a tensor is made there": lambda x: torch.zeros(3, device=x.device) + x,
    "places choose": lambda x: x[torch.arange(2, device=x.device)],
    "the host counts for itself": lambda x: (NUMBERS > 0).nonzero(),
}


def on_device() -> Any:
    return OnDevice(NUMBERS.clone())


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_is_seen_where(what: str) -> None:
    with Counting() as counting:
        WAITS[what](on_device())
    assert counting.counts.waits == 1


@pytest.mark.parametrize("what", NO_WAITS)
def test_no_wait_is_seen_where(what: str) -> None:
    with Counting() as counting:
        NO_WAITS[what](on_device())
    assert counting.counts.waits == 0


def test_views_and_what_the_host_does_are_no_kernels() -> None:
    with Counting() as counting:
        x = on_device()
        _ = x.view(3, 1).t().expand(3, 3), NUMBERS * 2, torch.empty(3, device=DEVICE)
        assert (counting.counts.kernels, counting.counts.operations) == (0, 4)
        torch._foreach_add_([x, x], [x, x])
        assert counting.counts.kernels == 1


def test_gradients_are_those_of_the_cpu_and_their_kernels_count() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), torch.randn(5, 4)
    model(x).square().sum().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    with Counting() as counting:
        move(model)
        y: Any = model(OnDevice(x))
        forward = counting.restart().kernels
        y.square().sum().backward()
    assert forward == 3 and counting.counts.kernels > 6 and not counting.counts.waits
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        found: Any = parameter.grad
        assert found.device == DEVICE and found.inner.equal(gradient)
