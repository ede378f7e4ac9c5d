"""Tiny random models that many tests share. Each is built once a process; every caller gets a copy of its own."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

IMAGE_TOKEN = 60
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
SMALLEST: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
# A tower and a language model to put together: an image is nine tokens.
PART_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}
PART_TEXT: dict[str, Any] = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}


def tiny_llama() -> LlamaForCausalLM:
    """A frozen Llama of :data:`TEXT` in eval mode, the same each time."""
    return _copy(_llama())


def tiny_llava() -> LlavaForConditionalGeneration:
    """The same with a CLIP tower of :data:`VISION`: an image is four tokens of :data:`IMAGE_TOKEN`."""
    return _copy(_llava())


def smallest_llama(num_layers: int = 1) -> LlamaForCausalLM:
    """A Llama of one layer in eval mode, the same each time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALLEST | {"num_hidden_layers": num_layers})).eval()


def write_parts(folder: Path, tokenizer_folder: Path) -> tuple[str, str]:
    """Write a CLIP tower and a Llama with its tokenizer; returns their folders."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    CLIPVisionModel(CLIPVisionConfig(**PART_VISION)).save_pretrained(folder / "clip")
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **PART_TEXT)).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return str(folder / "clip"), str(folder / "llama")


def _copy(model: Any) -> Any:
    # A copy leaves the random numbers where they can be foretold, as building does.
    torch.manual_seed(0)
    return copy.deepcopy(model)


@cache
def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TEXT)).eval().requires_grad_(False)


@cache
def _llava() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    parts: dict[str, Any] = {"vision_config": CLIPVisionConfig(**VISION), "text_config": LlamaConfig(**TEXT)}
    config = LlavaConfig(**parts, image_token_index=IMAGE_TOKEN)
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False)
