"""The encoder of a model is known without its weights."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.assemble import encoder_of, new_model, new_model_without_weights
from llava_moe.data.encode import Encoder
from llava_moe.errors import UserError
from tests.assemble.conftest import model_spec

CPU = torch.device("cpu")


def facts(encoder: Encoder) -> dict[str, Any]:
    values = {field.name: getattr(encoder, field.name) for field in fields(encoder)}
    tokenizer = values.pop("tokenizer")
    return values | {"tokenizer": tokenizer.backend_tokenizer.to_str(), "pad": tokenizer.pad_token_id}


@pytest.mark.parametrize("kind", ["parts", "checkpoint", "shape"])
def test_the_encoder_without_weights_is_that_of_the_model(architectures: dict[str, Any], kind: str) -> None:
    asked = model_spec(architectures[kind])
    alone = encoder_of(asked)
    assert facts(alone) == facts(new_model(asked, CPU).encoder)
    assert facts(alone) == facts(new_model_without_weights(asked, CPU).encoder)


def test_the_encoder_reads_no_weight(architectures: dict[str, Any], tmp_path: Path) -> None:
    parts = architectures["parts"]
    for part in ("clip", "llama"):
        (tmp_path / part).mkdir()
    for source, target in ((parts.vision_tower, "clip"), (parts.language_model, "llama")):
        for file in Path(source).iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / target / file.name).write_bytes(file.read_bytes())
    bare = model_spec(replace(parts, vision_tower=str(tmp_path / "clip"), language_model=str(tmp_path / "llama")))
    assert facts(encoder_of(bare)) == facts(encoder_of(model_spec(parts)))
    with pytest.raises(UserError, match="cannot be loaded"):
        new_model(bare, CPU)
