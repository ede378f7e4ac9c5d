"""Tensors go to a device from page-locked memory, and only where that helps."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch

from llava_moe.to_device import to_device


def test_on_the_host_a_tensor_stays_what_it_is() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor and to_device(tensor, "cpu") is tensor


@pytest.mark.parametrize(("lies_on", "is_pinned", "pins"), [("cpu", False, 1), ("cpu", True, 0), ("cuda:0", False, 0)])
def test_a_gpu_is_given_page_locked_memory_without_a_wait(lies_on: str, is_pinned: bool, pins: int) -> None:
    tensor = MagicMock(device=torch.device(lies_on))
    tensor.is_pinned.return_value = is_pinned
    to_device(tensor, torch.device("cuda", 0))
    assert tensor.pin_memory.call_count == pins
    source = tensor.pin_memory.return_value if pins else tensor
    source.to.assert_called_once_with(torch.device("cuda", 0), non_blocking=True)
