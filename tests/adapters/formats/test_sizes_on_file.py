"""Adapter sizes at true size: Vicuna-7B on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import LlavaMole, Lora, attach


@pytest.fixture(scope="module")
def vicuna_7b() -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(vocab_size=32064))  # Llama-7B is the default configuration


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (Lora(r=16), 39.98),
        (Lora(r=32), 79.95),
        (Lora(r=128), 319.82),
        (LlavaMole(r=16, num_experts=3), 86.77),
        (LlavaMole(r=32, num_experts=2), 126.6),
        (LlavaMole(r=32, num_experts=3), 173.1),
        (LlavaMole(r=32, num_experts=8), 405.8),
        (LlavaMole(r=128, num_experts=3), 691.4),
        (LlavaMole(r=32, num_experts=1), 79.95),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'r', value)}",
)
def test_adapter_on_vicuna_7b_has_the_published_size(vicuna_7b: LlamaForCausalLM, config: Any, millions: float) -> None:
    attached = attach(vicuna_7b, config)
    size = attached.num_parameters / 1e6
    assert size == sum(parameter.numel() for parameter in attached.parameters()) / 1e6
    attached.detach()
    assert size == pytest.approx(millions, abs=0.06 if millions > 100 else 0.006)
