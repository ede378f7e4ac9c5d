"""A stage trains the parts it names and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from llava_moe.adapters import LlavaMole, attach
from llava_moe.errors import UserError
from llava_moe.model import FromShape, TrainableParts, build_base, prepare_stage
from llava_moe.model.families import LLAVA
from llava_moe.model.families.protocol import VisionLanguageModel

VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def model(tokenizer_folder: Path) -> VisionLanguageModel:
    return build_base(FromShape(VISION, TEXT, str(tokenizer_folder)), torch.float32).model


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_pretraining_trains_the_projector_alone(model: VisionLanguageModel) -> None:
    (group,) = prepare_stage(model, TrainableParts({"projector": 1e-3}), {}, LLAVA)
    assert (group.part, group.learning_rate) == ("projector", 1e-3)
    assert trained(model) == set(group.parameters)
    assert all("multi_modal_projector" in name for name in trained(model))


def test_instruct_trains_adapter_and_projector(model: VisionLanguageModel) -> None:
    attached = attach(model, LlavaMole(num_experts=2, r=2, lora_alpha=4))
    rates = {"adapter": 2e-4, "projector": 2e-5}
    groups = prepare_stage(model, TrainableParts(rates), attached.named_parameters(), LLAVA)
    assert {group.part: group.learning_rate for group in groups} == rates
    assert trained(model) == set().union(*(group.parameters for group in groups))
    assert not any(".base." in name or "vision_tower" in name for name in trained(model))


def test_full_fine_tuning_trains_projector_and_language_model_with_its_head(model: VisionLanguageModel) -> None:
    prepare_stage(model, TrainableParts({"projector": 2e-5, "language_model": 2e-5}), {}, LLAVA)
    frozen = {name for name, _ in model.named_parameters()} - trained(model)
    assert frozen and all("vision_tower" in name for name in frozen)
    assert "lm_head.weight" in trained(model)


def test_sharegpt4vs_stage_trains_the_named_vision_layers(model: VisionLanguageModel) -> None:
    parts = TrainableParts({"vision_tower": 2e-5, "projector": 2e-5, "language_model": 2e-5}, (1, 3))
    prepare_stage(model, parts, {}, LLAVA)
    layers = {name.split("layers.")[1].split(".")[0] for name in trained(model) if "vision_tower" in name}
    assert layers == {"1", "2", "3"}


def test_layers_behind_the_feature_layer_are_refused(model: VisionLanguageModel) -> None:
    parts = TrainableParts({"vision_tower": 2e-5, "projector": 2e-5}, (2, 4))
    with pytest.raises(UserError, match="layers that are read are 0 to 3"):
        prepare_stage(model, parts, {}, LLAVA)


def test_an_unknown_part_and_a_missing_adapter_are_refused(model: VisionLanguageModel) -> None:
    with pytest.raises(UserError, match="unknown part adaptor"):
        TrainableParts({"adaptor": 1e-3})
    with pytest.raises(UserError, match="the model has no adapter"):
        prepare_stage(model, TrainableParts({"adapter": 1e-3}), {}, LLAVA)
