"""Routing counts of a step: rows add up, and one flat tensor carries them over ranks."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from llava_moe.train.expert_sums import ExpertSums
from tests.tiny_training import CPU


def totals(seed: int, dtype: torch.dtype = torch.float64) -> SimpleNamespace:
    """Two layers, three domains, four experts at most."""
    draw = torch.Generator().manual_seed(seed)
    tokens_LDK = torch.randint(0, 1 << 20, (2, 3, 4), generator=draw).to(dtype)
    entropy_LD = torch.rand(2, 3, generator=draw).to(dtype)
    return SimpleNamespace(tokens=tokens_LDK, entropy=entropy_LD, layer_names=["a", "b"], num_experts=[4, 2])


def test_rows_add_up_in_double_precision() -> None:
    sums = ExpertSums()
    for seed in range(3):
        sums.add(totals(seed, torch.float32))
    assert sums.tokens is not None and sums.entropy is not None
    assert sums.tokens.dtype == sums.entropy.dtype == torch.float64
    assert sums.tokens.equal(sum(totals(seed).tokens for seed in range(3)))
    assert (sums.layer_names, sums.num_experts) == (("a", "b"), (4, 2))


def test_what_ranks_add_up_flat_comes_back_in_its_shapes() -> None:
    sums = ExpertSums()
    sums.add(totals(1))
    flat = sums.flat(CPU)
    assert flat.shape == (2 * 3 * 4 + 2 * 3,) and flat.dtype == torch.float64
    tokens_LDK, entropy_LD = sums.from_flat(2 * flat)
    assert tokens_LDK is not None and entropy_LD is not None
    assert tokens_LDK.equal(2 * totals(1).tokens) and entropy_LD.equal(2 * totals(1).entropy)


def test_a_model_without_routed_layers_adds_nothing_to_the_reduction() -> None:
    none = SimpleNamespace(tokens=torch.zeros(0, 3, 1), entropy=torch.zeros(0, 3), layer_names=[], num_experts=[])
    sums = ExpertSums()
    assert sums.flat(CPU).shape == (0,) and sums.from_flat(torch.zeros(0)) == (None, None)
    sums.add(none)
    assert sums.flat(CPU).shape == (0,) and sums.from_flat(torch.zeros(0)) == (None, None)
