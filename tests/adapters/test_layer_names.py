"""What a decoder layer is called: one place knows, whatever the family, and all who ask it agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.bloom import BloomConfig, BloomForCausalLM
from transformers.models.falcon import FalconConfig, FalconForCausalLM
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt_neox import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.mpt import MptConfig, MptForCausalLM

from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole, attach, load_adapter
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.errors import UserError
from tests.tiny_models import TEXT

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FALCON = {**SMALL, "new_decoder_architecture": False, "multi_query": True, "bias": False}
FAMILIES: dict[str, tuple[Callable[[], Any], str, tuple[str, ...]]] = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**TEXT)), "layers", ("up_proj", "down_proj")),
    "falcon": (lambda: FalconForCausalLM(FalconConfig(**FALCON)), "h", ("dense_h_to_4h", "dense_4h_to_h")),
    "bloom": (
        lambda: BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)),
        "h",
        ("dense_h_to_4h", "dense_4h_to_h"),
    ),
    "gpt_neox": (
        lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=64)),
        "layers",
        ("dense_h_to_4h", "dense_4h_to_h"),
    ),
    "mpt": (
        lambda: MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=64, expansion_ratio=2)),
        "blocks",
        ("up_proj", "down_proj"),
    ),
}


def build(family: str) -> Any:
    torch.manual_seed(0)
    return FAMILIES[family][0]().eval().requires_grad_(False)


IDS = torch.arange(1, 9)[None]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_of_the_language_model_stands_in_one_of_two_layers(family: str) -> None:
    target_model = TargetModel.of(build(family))
    _, stack, _ = FAMILIES[family]
    assert {target_model.layer_of(name) for name in target_model.linears} == {0, 1}
    assert {target_model.short(target_model.block_of(name) or "") for name in target_model.linears} == {
        f"{stack}.0",
        f"{stack}.1",
    }


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["mixlora", "mole", "llava_mole"])
def test_experts_are_counted_by_layer(family: str, method: str, tmp_path: Path) -> None:
    _, stack, mlp = FAMILIES[family]
    config: Any = MixLora(num_factors=4, r=2, target_modules="all-linear")
    if method == "mole":
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder in folders:
            attach(build(family), Lora(r=2, target_modules="all-linear")).save(folder)
        config = Mole([str(folder) for folder in folders])
    if method == "llava_mole":
        config = LlavaMole(num_experts=4, r=2, target_modules="all-linear", expert_modules=mlp)
    model = build(family)
    attached = attach(model, config)
    model(input_ids=IDS)
    totals = attached.expert_totals(torch.zeros_like(IDS), 1)
    suffix = ".ffn" if family == "mpt" else ".mlp"
    names = tuple(f"{stack}.{layer}" + (suffix if method == "llava_mole" else "") for layer in range(2))
    assert totals.layer_names == names
    torch.testing.assert_close(totals.tokens.sum((1, 2)), torch.full((2,), 8.0, dtype=torch.float64))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_of_mole_is_one_layer_and_a_saved_adapter_comes_back(family: str, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        attached = attach(build(family), Lora(r=2, target_modules="all-linear"))
        torch.manual_seed(seed)
        for parameter in attached.parameters():
            parameter.normal_(std=0.2)
        attached.save(folder)
    model = build(family)
    attached = attach(model, Mole([str(folder) for folder in folders], granularity="block"))
    logits = model(input_ids=IDS).logits
    assert len(attached.routings()) == 2
    attached.save(tmp_path / "mole")
    other = build(family)
    load_adapter(other, tmp_path / "mole")
    assert torch.equal(other(input_ids=IDS).logits, logits)


def test_a_decoder_whose_layers_are_no_linears_is_refused_by_what_it_lacks() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))
    for targets in ("all-linear", ["c_attn"]):
        with pytest.raises(UserError, match="match no linear layer of GPT2Model; it has none"):
            attach(model, Lora(r=2, target_modules=targets))
