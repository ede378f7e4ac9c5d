"""A model that is assembled without its weights is the one that training assembles, but for their values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.adapters import LlavaMole, Lora, NoAdapter
from llava_moe.assemble import encoder_of, new_model, new_model_without_weights
from llava_moe.errors import UserError
from tests.assemble.conftest import model_spec

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["parts", "checkpoint", "shape"])
@pytest.mark.parametrize("adapter", [NoAdapter(), Lora(r=4), LlavaMole(r=4)], ids=lambda one: type(one).__name__)
def test_the_model_without_weights_has_the_tensors_of_the_model(
    architectures: dict[str, Any], kind: str, adapter: Any
) -> None:
    asked = model_spec(architectures[kind], adapter)
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


def test_what_is_no_model_is_refused_without_weights_too(tmp_path: Path, architectures: dict[str, Any]) -> None:
    parts = architectures["parts"]
    for wrong in (replace(parts, vision_tower=parts.language_model), replace(parts, vision_tower=str(tmp_path / "x"))):
        for build in (encoder_of, lambda asked: new_model_without_weights(asked, CPU)):
            with pytest.raises(UserError):
                build(model_spec(wrong))
