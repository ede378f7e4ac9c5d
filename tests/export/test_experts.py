"""An expert as a PEFT folder: loaded by PEFT it computes what our model does when held to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from llava_moe.adapters import LlavaMole, Lora
from llava_moe.export.constant_gates import expert_names, held, one_expert
from llava_moe.export.experts import Part, expert_parts, write_expert

EXACT = {"atol": 1e-10, "rtol": 1e-10}


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        LlavaMole(num_experts=2, r=3, lora_alpha=5),
        LlavaMole(num_experts=2, r=3, use_rslora=True),
        LlavaMole(num_experts=2, r=3, shared_A=True),
        LlavaMole(num_experts=[1, 3], r=3),
        LlavaMole(num_experts=[3, 2], r=3),
        LlavaMole(num_experts=2, r=3, expert_layers=[1]),
        LlavaMole(num_experts=2, r=3, target_modules=["o_proj", "up_proj"], expert_modules=["up_proj"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [0, -1])
def test_folder_of_an_expert_is_our_model_held_to_it(
    build: Any, dressed: Any, inputs: dict[str, Tensor], tmp_path: Path, config: LlavaMole, place: int
) -> None:
    model, attached = dressed(config)
    expert = expert_names(model)[place]
    with held(model, one_expert(model, expert)):
        expected = model(**inputs).logits
    parts = expert_parts(model, expert)
    attached.detach()
    write_expert(tmp_path, model, parts, {}, {})
    theirs = PeftModel.from_pretrained(build(), tmp_path)
    torch.testing.assert_close(theirs(**inputs).logits, expected, **EXACT)


@torch.no_grad()
def test_linears_of_other_ranks_and_scales_are_written_as_patterns(
    build: Any, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(2)
    model, parts = build(), {}
    for layer, rank, scale in ((0, 2, 1.5), (1, 4, 1.5), (1, 2, 0.25)):
        leaf = "self_attn.q_proj" if scale == 1.5 else "mlp.up_proj"
        name = f"model.language_model.layers.{layer}.{leaf}"
        weight = model.get_submodule(name).weight
        part = Part(torch.randn(rank, weight.shape[1]) * 0.3, torch.randn(weight.shape[0], rank) * 0.3, scale)
        parts[name] = part
    write_expert(tmp_path, model, parts, {}, {})
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["rank_pattern"] == {"model.language_model.layers.1.self_attn.q_proj": 4}
    theirs = PeftModel.from_pretrained(build(), tmp_path)
    for name, part in parts.items():
        model.get_submodule(name).weight.add_(part.scale * part.lora_B.double() @ part.lora_A.double())
    torch.testing.assert_close(theirs(**inputs).logits, model(**inputs).logits, **EXACT)


@torch.no_grad()
def test_saved_projector_takes_the_place_of_the_bases_own(
    build: Any, dressed: Any, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    model, attached = dressed(Lora(r=2))
    projector = model.model.multi_modal_projector
    for parameter in projector.parameters():
        parameter.normal_()
    expected, parts = model(**inputs).logits, expert_parts(model, None)
    attached.detach()
    saved = {name: tensor for name, tensor in model.named_parameters() if "multi_modal_projector" in name}
    write_expert(tmp_path, model, parts, {}, saved)
    theirs = PeftModel.from_pretrained(build(), tmp_path)
    torch.testing.assert_close(theirs(**inputs).logits, expected, **EXACT)
