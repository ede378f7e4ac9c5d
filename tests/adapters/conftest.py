"""Tiny random decoders for the tests of adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "pad_token_id": 0,
}


@pytest.fixture
def build_llama() -> Callable[[], LlamaForCausalLM]:
    """A function that builds the same model each time."""

    def build() -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**TEXT)).eval().requires_grad_(False)

    return build


@pytest.fixture
def build_llava() -> Callable[[], LlavaForConditionalGeneration]:
    """A function that builds the same model each time; an image is four tokens of id 60."""

    def build() -> LlavaForConditionalGeneration:
        torch.manual_seed(0)
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=60)
        return LlavaForConditionalGeneration(config).eval().requires_grad_(False)

    return build
