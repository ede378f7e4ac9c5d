"""The three ways to a base model, and what it takes to build one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.adapters import NoAdapter
from llava_moe.assemble import ModelSpec
from llava_moe.data.template import Template
from llava_moe.model import FromCheckpoint, FromParts, FromShape, build_base
from tests.tiny_models import PART_TEXT, PART_VISION, write_parts


@pytest.fixture(scope="session")
def architectures(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The three ways to a base model, all on disk."""
    folder = tmp_path_factory.mktemp("bases")
    parts = FromParts(*write_parts(folder, tokenizer_folder))
    base = build_base(parts, torch.float32)
    base.model.save_pretrained(folder / "llava")
    base.tokenizer.save_pretrained(folder / "llava")
    shape = FromShape(vision=PART_VISION, text=PART_TEXT, tokenizer=str(tokenizer_folder))
    return {"parts": parts, "checkpoint": FromCheckpoint(str(folder / "llava")), "shape": shape}


def model_spec(architecture: Any, adapter: Any = None, dtype: str = "bf16") -> ModelSpec:
    return ModelSpec(
        architecture, adapter or NoAdapter(), dtype, Template("v1", ""), "pad", max_length=128, over_length="cut"
    )
