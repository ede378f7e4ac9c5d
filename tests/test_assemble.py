"""A model that is assembled without its weights is the one that training assembles, but for their values."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llava_moe.adapters import LlavaMole, Lora, NoAdapter
from llava_moe.assemble import Recipe, encoder_of, load_base_parts, new_model, new_model_without_weights
from llava_moe.data.encode import Encoder
from llava_moe.data.template import Template
from llava_moe.errors import UserError
from llava_moe.model import FromCheckpoint, FromParts, FromShape, build_base
from tests.tiny_models import PART_TEXT, PART_VISION, write_parts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def architectures(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The three ways to a base model, all on disk."""
    folder = tmp_path_factory.mktemp("bases")
    parts = FromParts(*write_parts(folder, tokenizer_folder))
    base = build_base(parts, torch.float32)
    base.model.save_pretrained(folder / "llava")
    base.tokenizer.save_pretrained(folder / "llava")
    shape = FromShape(vision=PART_VISION, text=PART_TEXT, tokenizer=str(tokenizer_folder))
    return {"parts": parts, "checkpoint": FromCheckpoint(str(folder / "llava")), "shape": shape}


def recipe(architecture: Any, adapter: Any = None, dtype: str = "bf16") -> Recipe:
    return Recipe(
        architecture, adapter or NoAdapter(), dtype, Template("v1", ""), "pad", max_length=128, over_length="cut"
    )


def facts(encoder: Encoder) -> dict[str, Any]:
    values = {field.name: getattr(encoder, field.name) for field in fields(encoder)}
    tokenizer = values.pop("tokenizer")
    return values | {"tokenizer": tokenizer.backend_tokenizer.to_str(), "pad": tokenizer.pad_token_id}


@pytest.mark.parametrize("kind", ["parts", "checkpoint", "shape"])
def test_the_encoder_without_weights_is_that_of_the_model(architectures: dict[str, Any], kind: str) -> None:
    asked = recipe(architectures[kind])
    alone = encoder_of(asked)
    assert facts(alone) == facts(new_model(asked, CPU).encoder)
    assert facts(alone) == facts(new_model_without_weights(asked, CPU).encoder)


@pytest.mark.parametrize("kind", ["parts", "checkpoint", "shape"])
@pytest.mark.parametrize("adapter", [NoAdapter(), Lora(r=4), LlavaMole(r=4)], ids=lambda one: type(one).__name__)
def test_the_model_without_weights_has_the_tensors_of_the_model(
    architectures: dict[str, Any], kind: str, adapter: Any
) -> None:
    asked = recipe(architectures[kind], adapter)
    with_weights, without = new_model(asked, CPU), new_model_without_weights(asked, CPU)
    assert {tensor.device.type for tensor in without.model.state_dict().values()} == {"meta"}
    for part in ("model", "attached"):
        expected, found = getattr(with_weights, part).state_dict(), getattr(without, part).state_dict()
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == {
            name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()
        }
    for tower in ("text_config", "vision_config"):
        told, expected_told = (getattr(one.model.config, tower).to_dict() for one in (without, with_weights))
        assert told | {"_name_or_path": ""} == expected_told | {"_name_or_path": ""}
    assert without.attention == with_weights.attention


def test_the_encoder_reads_no_weight(architectures: dict[str, Any], tmp_path: Path) -> None:
    parts = architectures["parts"]
    for part in ("clip", "llama"):
        (tmp_path / part).mkdir()
    for source, target in ((parts.vision_tower, "clip"), (parts.language_model, "llama")):
        for file in Path(source).iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / target / file.name).write_bytes(file.read_bytes())
    bare = recipe(replace(parts, vision_tower=str(tmp_path / "clip"), language_model=str(tmp_path / "llama")))
    assert facts(encoder_of(bare)) == facts(encoder_of(recipe(parts)))
    with pytest.raises(UserError, match="cannot be loaded"):
        new_model(bare, CPU)


def test_what_is_no_model_is_refused_without_weights_too(tmp_path: Path, architectures: dict[str, Any]) -> None:
    parts = architectures["parts"]
    for wrong in (replace(parts, vision_tower=parts.language_model), replace(parts, vision_tower=str(tmp_path / "x"))):
        for build in (encoder_of, lambda asked: new_model_without_weights(asked, CPU)):
            with pytest.raises(UserError):
                build(recipe(wrong))


def test_parts_that_are_not_finite_are_named_before_they_answer(architectures: dict[str, Any], tmp_path: Path) -> None:
    model = new_model(recipe(architectures["shape"]), CPU).model
    name, weight = next((n, p) for n, p in model.named_parameters() if "multi_modal_projector" in n)
    path = tmp_path / "projector.safetensors"
    save_file({name: torch.zeros_like(weight)}, path)
    load_base_parts(model, tmp_path)
    for value in (float("nan"), float("inf")):
        save_file({name: torch.full_like(weight, value)}, path)
        with pytest.raises(UserError, match=r"projector\.safetensors: .* holds NaN or infinite weights"):
            load_base_parts(model, tmp_path)
