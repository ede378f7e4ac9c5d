"""Tensors taken together, as many as fit a size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch


def bucketed(tensors: Iterable[torch.Tensor], num_in_bucket: int) -> Iterator[list[torch.Tensor]]:
    """Tensors in their order, as many together as have ``num_in_bucket`` numbers; a larger one is alone."""
    bucket: list[torch.Tensor] = []
    num_inside = 0
    for tensor in tensors:
        if bucket and num_inside + tensor.numel() > num_in_bucket:
            yield bucket
            bucket, num_inside = [], 0
        bucket.append(tensor)
        num_inside += tensor.numel()
    if bucket:
        yield bucket
