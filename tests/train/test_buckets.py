"""Tensors taken together."""

from __future__ import annotations

import torch

from llava_moe.train.buckets import bucketed


def test_a_bucket_holds_what_fits_and_a_large_tensor_is_alone() -> None:
    sizes = [3, 4, 9, 1, 1, 8]
    buckets = [[len(one) for one in bucket] for bucket in bucketed(map(torch.zeros, sizes), 8)]
    assert buckets == [[3, 4], [9], [1, 1], [8]] and not [*bucketed([], 8)]
