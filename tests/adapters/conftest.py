"""Tiny random decoders for the tests of adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from tests.tiny_models import tiny_llama, tiny_llava


@pytest.fixture
def build_llama() -> Callable[[], LlamaForCausalLM]:
    """A function that builds the same model each time."""
    return tiny_llama


@pytest.fixture
def build_llava() -> Callable[[], LlavaForConditionalGeneration]:
    """A function that builds the same model each time; an image is four tokens of id 60."""
    return tiny_llava
