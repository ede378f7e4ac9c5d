"""A tiny random LLaVA with routed experts, and conversations with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.adapters import LlavaMole
from llava_moe.assemble import Assembled, ModelSpec, new_model
from llava_moe.chat.answer import Decoding
from llava_moe.chat.session import Session
from llava_moe.data.template import Template
from llava_moe.model import FromShape

VISION = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2},
    **{"image_size": 32, "patch_size": 8, "projection_dim": 32},
}
TEXT = {
    **{"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": False},
}


def assemble(tokenizer_folder: Path, **changes: Any) -> Assembled:
    """A model whose answers differ from question to question: all matrices random and large."""
    fields: dict[str, Any] = {
        "architecture": FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer_folder)),
        "adapter": LlavaMole(num_experts=3, r=4, lora_alpha=8),
        "dtype": "fp32",
        "template": Template("v1", system="Hello."),
        "image_mode": "pad",
        "max_length": 256,
        "over_length": "cut",
    }
    assembled = new_model(ModelSpec(**(fields | changes)), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in assembled.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    assembled.model.eval()
    return assembled


@pytest.fixture(scope="session")
def assembled(tokenizer_folder: Path) -> Assembled:
    return assemble(tokenizer_folder)


@pytest.fixture(scope="session")
def captioner(tokenizer_folder: Path) -> Assembled:
    return assemble(tokenizer_folder, template=Template("plain"), image_mode="crop")


@pytest.fixture
def session(assembled: Assembled) -> Callable[..., Session]:
    """Begin a conversation; what is not said is greedy with short answers."""

    def begin(like: Assembled = assembled, **decoding: Any) -> Session:
        settings = Decoding(**({"max_new_tokens": 6} | decoding))
        return Session(like.model, like.encoder, like.attached, settings)

    return begin
