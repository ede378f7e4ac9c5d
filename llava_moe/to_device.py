"""What the host has made goes to a device without waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on ``device``.

    A GPU takes it from page-locked memory, in the order of its work: from other memory the host would wait until all
    that was asked of the GPU before is done.
    """
    if tensor.device.type == "cpu" and str(device).startswith("cuda") and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
