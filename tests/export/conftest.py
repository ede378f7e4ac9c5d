"""A tiny random LLaVA, in fp64 so that equality means the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import Attached, Method, attach
from tests.tiny_models import tiny_llava


@pytest.fixture
def build() -> Callable[..., LlavaForConditionalGeneration]:
    """A function that builds the same model each time."""

    def build_model() -> LlavaForConditionalGeneration:
        return tiny_llava().double()

    return build_model


@pytest.fixture
def dressed(
    build: Callable[..., LlavaForConditionalGeneration],
) -> Callable[..., tuple[LlavaForConditionalGeneration, Attached]]:
    """A function that builds the model with an adapter of random weights on it."""

    def dress(config: Method) -> tuple[LlavaForConditionalGeneration, Attached]:
        model = build()
        attached = attach(model, config)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.normal_(std=0.3)
        return model, attached

    return dress


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Two rows of nine tokens, an image each; the second is padded on the left."""
    torch.manual_seed(3)
    ids = torch.randint(1, 60, (2, 9))
    ids[:, 2:6] = 60
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64),
    }
