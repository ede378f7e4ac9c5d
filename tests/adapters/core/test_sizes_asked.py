"""A size beyond the model or the machine is one line before anything is built."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import LlavaMole, Lora, MixLora, attach
from llava_moe.adapters.core.method import Method
from llava_moe.errors import UserError
from tests.tiny_models import TEXT


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (Lora(r=2_000_000), "r=2000000 is more than any linear here can use"),
        (Lora(r=10**30), "is more than any linear here can use"),
        (LlavaMole(r=2_000_000), "r=2000000 is more"),
        (LlavaMole(num_experts=1_000_000), "num_experts=1000000 is more"),
        (LlavaMole(num_experts=(1_000_000, 2)), "num_experts=1000000 is more"),
        (MixLora(num_factors=1_000_000), "num_factors=1000000 is more"),
        (MixLora(num_factors=2_000_000, r=400_000), "num_factors=2000000 is more"),
    ],
    ids=str,
)
def test_a_size_beyond_every_linear_is_named_before_memory_is_taken(config: Method, told: str) -> None:
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    begin = time.process_time()
    with pytest.raises(UserError) as info:
        attach(model, config)
    assert time.process_time() - begin < 1
    assert told in str(info.value) and "\n" not in str(info.value)


def test_sizes_that_together_fit_no_memory_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    numbers = sum(
        64 * (linear.in_features + linear.out_features)
        for name, linear in model.named_modules()
        if isinstance(linear, torch.nn.Linear) and "mlp" in name
    )
    for memory, fits in ((4 * numbers, True), (4 * numbers - 1, False)):
        monkeypatch.setattr("llava_moe.adapters.core.sizes_asked._memory_of", lambda _, memory=memory: memory)
        if fits:
            attach(model, LlavaMole(r=16, num_experts=4)).detach()
        else:
            with pytest.raises(UserError, match=r"r=16, num_experts=4 has .* numbers.* memory on cpu"):
                attach(model, LlavaMole(r=16, num_experts=4))


def test_a_small_model_takes_the_ranks_of_a_large_one() -> None:
    attach(LlamaForCausalLM(LlamaConfig(**TEXT)), Lora(r=512)).detach()
