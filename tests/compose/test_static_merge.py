"""Merges without training against their formulas on the deltas, whatever the experts' ranks, scales and targets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llava_moe.adapters import Lora, attach, load_adapter
from llava_moe.compose.static_merge import StaticMerge, merge
from llava_moe.errors import UserError
from tests.tiny_models import smallest_llama

LINEAR = "layers.0.mlp.up_proj"


def write_lora(folder: Path, seed: int, is_trained: bool = True, **settings: Any) -> str:
    attached = attach(smallest_llama(), Lora(**settings))
    torch.manual_seed(seed)
    if is_trained:
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.normal_(std=0.3)
    attached.save(folder)
    return str(folder)


@pytest.fixture
def experts(tmp_path: Path) -> list[str]:
    return [
        write_lora(tmp_path / "first", 1, r=2, lora_alpha=3, use_rslora=True),
        write_lora(tmp_path / "second", 2, r=3, lora_alpha=5, target_modules=("up_proj", "q_proj")),
    ]


def delta(folder: str | Path, linear: str = LINEAR) -> Tensor:
    """s B A of a folder, or zeros where it leaves a linear out."""
    attached = load_adapter(model := smallest_llama(), folder)
    tensors = attached.state_dict()
    if f"{linear}.lora_A.weight" not in tensors:
        return torch.zeros_like(model.model.get_submodule(linear).weight)
    scale = model.model.get_submodule(linear).scale
    return scale * tensors[f"{linear}.lora_B.weight"] @ tensors[f"{linear}.lora_A.weight"]


def merged(experts: Sequence[str], tmp_path: Path, how: StaticMerge, linear: str = LINEAR) -> Tensor:
    merge(smallest_llama(), experts, how, tmp_path / "out")
    return delta(tmp_path / "out", linear)


@pytest.mark.parametrize("linear", [LINEAR, "layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"])
def test_linear_is_the_sum_of_the_deltas_and_normalized_linear_their_mean(
    experts: list[str], tmp_path: Path, linear: str
) -> None:
    total = sum(delta(expert, linear) for expert in experts)
    got = merged(experts, tmp_path, StaticMerge("linear"), linear)
    torch.testing.assert_close(got, total, atol=1e-6, rtol=1e-5)
    got = merged(experts, tmp_path, StaticMerge("normalized_linear"), linear)
    torch.testing.assert_close(got, total / 2, atol=1e-6, rtol=1e-5)


def test_weights_weigh_and_normalized_ones_sum_to_one(experts: list[str], tmp_path: Path) -> None:
    first, second = (delta(expert) for expert in experts)
    got = merged(experts, tmp_path, StaticMerge("linear", (0.5, -2)))
    torch.testing.assert_close(got, 0.5 * first - 2 * second, atol=1e-6, rtol=1e-5)
    got = merged(experts, tmp_path, StaticMerge("normalized_linear", (1, 3)))
    torch.testing.assert_close(got, 0.25 * first + 0.75 * second, atol=1e-6, rtol=1e-5)


def test_svd_is_the_best_approximation_of_the_sum_at_its_rank(experts: list[str], tmp_path: Path) -> None:
    total = sum(delta(expert) for expert in experts)
    torch.testing.assert_close(merged(experts, tmp_path, StaticMerge("svd", rank=5)), total, atol=1e-5, rtol=1e-4)
    u, s, vh = torch.linalg.svd(total)
    nearest = u[:, :3] @ s[:3].diag() @ vh[:3]
    torch.testing.assert_close(merged(experts, tmp_path, StaticMerge("svd")), nearest, atol=1e-5, rtol=1e-4)


def test_ties_keeps_the_largest_elects_signs_and_averages_what_agrees(experts: list[str], tmp_path: Path) -> None:
    terms = []
    for expert in experts:
        term = delta(expert)
        kept = int(0.5 * term.numel())
        threshold = term.abs().flatten().topk(kept).values[-1]
        terms.append(term * (term.abs() >= threshold))
    stacked = torch.stack(terms)
    sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    agrees = stacked.sign() == sign
    expected = (stacked * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    got = merged(experts, tmp_path, StaticMerge("ties", density=0.5, rank=16))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_dare_draws_from_its_seed_and_leaves_the_generator_alone(experts: list[str], tmp_path: Path) -> None:
    state = torch.get_rng_state()
    one, again, other = (merged(experts, tmp_path, StaticMerge("dare_ties", seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other)
    torch.set_rng_state(state)
    smallest_llama()
    here = torch.get_rng_state()
    model = smallest_llama()
    merge(model, experts, StaticMerge("dare_ties"), tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), here)


def test_the_model_is_as_it_was(experts: list[str], tmp_path: Path) -> None:
    model = smallest_llama().requires_grad_(True)
    modules, ids = dict(model.named_modules()), torch.arange(5)[None]
    before = model(ids).logits
    for method in ("linear", "ties"):
        merge(model, experts, StaticMerge(method), tmp_path / method)
    assert {name: id(module) for name, module in model.named_modules()} == {n: id(m) for n, m in modules.items()}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(ids).logits, before)


def test_a_merge_that_changes_nothing_is_refused(experts: list[str], tmp_path: Path) -> None:
    untrained = [write_lora(tmp_path / f"{seed}", seed, is_trained=False, r=2) for seed in (1, 2)]
    with pytest.raises(UserError, match="changes nothing"):
        merge(smallest_llama(), untrained, StaticMerge("linear"), tmp_path / "out")
    with pytest.raises(UserError, match="changes nothing"):
        merge(smallest_llama(), experts, StaticMerge("linear", (0, 0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_one_lora_in_some_layers_is_that_lora_there(experts: list[str], tmp_path: Path) -> None:
    alone = merged(experts[:1], tmp_path, StaticMerge("linear", layers=(0, 0)))
    torch.testing.assert_close(alone, delta(experts[0]), atol=1e-6, rtol=1e-5)


def test_layers_in_which_there_is_nothing_are_refused(experts: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"layers=\[\] leaves nothing"):
        StaticMerge("linear", layers=())
    with pytest.raises(UserError, match=r"layers=\[0, 7\]: the model has layers 0 to 0, no 7"):
        merge(smallest_llama(), experts, StaticMerge("linear", layers=(7, 0)), tmp_path / "out")
    low = write_lora(tmp_path / "low", 1, target_modules=r"model\.layers\.0\..*")
    with pytest.raises(UserError, match=r"layers=\[1\]: .*low adapts none of them"):
        merge(smallest_llama(num_layers=2), [low], StaticMerge("linear", layers=(1,)), tmp_path / "out")


def test_what_cannot_be_is_refused(experts: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="method=average"):
        StaticMerge("average")
    with pytest.raises(UserError, match="density=0"):
        StaticMerge("ties", density=0)
    for rank in (0, -1, 1.5, True):
        with pytest.raises(UserError, match=f"rank={rank} must be a whole number of at least 1"):
            StaticMerge("svd", rank=rank)  # type: ignore[arg-type]  # refused on purpose
    with pytest.raises(UserError, match=r"weights=\[nan, 1.0\] must be finite"):
        StaticMerge("linear", (float("nan"), 1))
    with pytest.raises(UserError, match="2 numbers"):
        merge(smallest_llama(), experts, StaticMerge("linear", (1,)), tmp_path / "out")
    with pytest.raises(UserError, match="sum to 0"):
        merge(smallest_llama(), experts, StaticMerge("normalized_linear", (1, -1)), tmp_path / "out")


@torch.no_grad()
def test_the_largest_rank_is_that_of_the_narrowest_linear_and_is_named_above_it(
    experts: list[str], tmp_path: Path
) -> None:
    total = sum(delta(expert) for expert in experts)
    got = merged(experts, tmp_path, StaticMerge("svd", rank=16))
    torch.testing.assert_close(got, total, atol=1e-5, rtol=1e-4)
    for method in ("svd", "ties", "dare_ties"):
        for rank in (17, 5000):
            with pytest.raises(UserError, match=rf"^rank={rank}: .* so 16 is the largest rank that method={method} "):
                merge(smallest_llama(), experts, StaticMerge(method, rank=rank), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert (
        merge(smallest_llama(), experts, StaticMerge("linear", rank=5000), tmp_path / "sum").r == 5
    )  # no SVD, no rank to leave


@torch.no_grad()
def test_experts_of_a_rank_above_a_linears_sides_merge_by_svd_all_the_same(tmp_path: Path) -> None:
    wide = [write_lora(tmp_path / f"{seed}", seed, r=20) for seed in (1, 2)]
    got = merged(wide, tmp_path, StaticMerge("svd"))
    torch.testing.assert_close(got, sum(delta(expert) for expert in wide), atol=1e-5, rtol=1e-4)


def test_without_peft_it_says_how_to_get_it(
    experts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="pip install"):
        merge(smallest_llama(), experts, StaticMerge("linear"), tmp_path / "out")
