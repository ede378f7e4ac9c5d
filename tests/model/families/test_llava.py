"""The first member: what it says of a model is true of the model that it builds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.model import FromShape, build_base, read_base
from llava_moe.model.families import LLAVA, family_of, registry
from llava_moe.model.families.published_name import published_name
from llava_moe.plugins import Registry
from tests.model.test_stages import TEXT, VISION


@pytest.fixture
def shape(tokenizer_folder: Path) -> FromShape:
    return FromShape(VISION, TEXT, str(tokenizer_folder))


def test_every_part_is_a_module_of_the_model_and_every_tensor_is_of_one_part(shape: FromShape) -> None:
    base = build_base(shape, torch.float32)
    parts = base.family.parts
    for name in (parts.tower, parts.projector, parts.language_model, parts.head):
        base.model.get_submodule(name)
    for name in base.model.state_dict():
        owners = [parts.is_towers(name), parts.is_projectors(name), parts.is_language_models(name)]
        assert sum(owners) == 1, name


def test_facts_read_from_configurations_are_those_of_the_built_model(shape: FromShape) -> None:
    built, read = vars(build_base(shape, torch.float32)), vars(read_base(shape))
    assert {key: built[key] for key in read if key != "tokenizer"} == {
        key: value for key, value in read.items() if key != "tokenizer"
    }
    assert read["family"] is LLAVA


def test_a_tensor_without_a_published_name_is_refused() -> None:
    assert published_name("model.vision_tower.vision_model.post_layernorm.bias", LLAVA) == (
        "vision_tower.vision_model.post_layernorm.bias"
    )
    with pytest.raises(UserError, match=r"model\.image_newline"):
        published_name("model.image_newline", LLAVA)


def test_an_architecture_that_no_family_takes_is_refused(shape: FromShape, monkeypatch: pytest.MonkeyPatch) -> None:
    assert family_of(shape) is LLAVA
    monkeypatch.setattr(registry, "FAMILIES", Registry("families", {}, lambda plugin, found: found))
    with pytest.raises(UserError, match="of no family"):
        family_of(shape)
