"""A trace without content against training itself: what torch's allocator is asked for, to the byte of its events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llava_moe.adapters import LlavaMole, Lora, MixLora, NoAdapter
from llava_moe.assemble import Recipe, new_model
from llava_moe.commands.stage import objective_of
from llava_moe.data.template import Template
from llava_moe.model import FromShape, TrainableParts, prepare_stage
from llava_moe.plan.hollow import Hollow
from llava_moe.plan.rows import Row, hollow_batch
from llava_moe.plan.trace import Blueprint, trace
from llava_moe.train.engine import LocalEngine
from llava_moe.train.loop import LoopSettings, take_step
from llava_moe.train.optimizer import OptimizerSettings

CPU = torch.device("cpu")
VISION = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
          "image_size": 64, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
        "num_key_value_heads": 6, "max_position_embeddings": 2048, "tie_word_embeddings": False}  # fmt: skip
SHORT = Row((90, 85, 80, 70), (1, 1, 1, 0), (9, 8, 12, 20))
LONG = Row((520, 500, 480, 300, 248), (1, 1, 1, 1, 0), (60, 30, 90, 100, 40))
WITH_ADAPTER, WHOLE = {"adapter": 2e-4, "projector": 2e-5}, {"projector": 2e-5, "language_model": 2e-5}
MIX = LlavaMole(num_experts=3, r=32, lora_alpha=64, lora_dropout=0.05)


def blueprint(tokenizer: Path, adapter: Any, dtype: str, recomputes: bool, on_gpu: bool = False) -> Blueprint:
    shape = FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer))
    recipe = Recipe(shape, adapter, dtype, Template("v1", ""), "pad", max_length=2048, over_length="cut")
    rates = WHOLE if isinstance(adapter, NoAdapter) else WITH_ADAPTER
    return Blueprint(recipe, TrainableParts(rates), OptimizerSettings(), objective_of, 3, recomputes, on_gpu, False)


class Step:
    """A step for the loop."""

    epoch = index = 0
    keys: tuple[str, ...] = ()
    bad: tuple[Any, ...] = ()
    padding_share = 0.0

    def __init__(self, batches: tuple[Any, ...]) -> None:
        self.batches = batches


class Run:
    stop_asked = False


def measured_peak(plan: Blueprint, row: Row, num_rows: int) -> int:
    """The most that torch's CPU allocator held at once in the third step of real training, weights included."""
    assembled = new_model(plan.recipe, CPU)
    model = assembled.model
    trains_adapter = "adapter" in plan.parts.learning_rates
    groups = prepare_stage(model, plan.parts, assembled.attached.trainable_parameters() if trains_adapter else {})
    if plan.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    engine = LocalEngine(model, groups, plan.optimizer, CPU)
    fake = Hollow().fake
    batches = tuple(real_batch(row, assembled.encoder, fake) for _ in range(num_rows))
    settings = LoopSettings(domains=("a", "b", "c"))
    rates = [group.learning_rate for group in groups]

    def step() -> None:
        take_step(engine, objective_of(assembled), Step(batches), rates, settings, Run())

    step()
    step()
    standing = [*model.parameters(), *model.buffers(), *engine.masters.values()]
    standing += [value for state in engine.optimizer.state.values() for value in state.values()]
    before = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in standing}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return before + most_at_once(profiler)


def most_at_once(profiler: Any) -> int:
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert len(events) > 100, "the allocator was watched"
    most = now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def real_batch(row: Row, encoder: Any, fake: Any) -> Any:
    from dataclasses import replace

    batch = hollow_batch(row, encoder, fake)
    return replace(batch, pixel_values=torch.zeros(batch.pixel_values.shape, dtype=torch.uint8))


CASES = {
    "lora, short rows, fp32": (Lora(r=16, lora_dropout=0.05), "fp32", False, SHORT, 1),
    "lora, several rows, bf16": (Lora(r=16, lora_dropout=0.05), "bf16", False, SHORT, 3),
    "llava_mole, 2048 tokens, fp32": (MIX, "fp32", False, LONG, 1),
    "llava_mole, 2048 tokens, bf16, several": (MIX, "bf16", False, LONG, 2),
    "llava_mole, 2048 tokens, recomputed": (MIX, "fp32", True, LONG, 1),
    "llava_mole, sorted": (LlavaMole(num_experts=4, r=8, dispatch="sorted"), "fp32", False, LONG, 1),
    "mixlora, bf16": (MixLora(num_factors=8, r=2), "bf16", False, SHORT, 1),
    "whole, fp32": (NoAdapter(), "fp32", False, LONG, 1),
    "whole, bf16, several": (NoAdapter(), "bf16", False, LONG, 2),
    "whole, fp32, recomputed": (NoAdapter(), "fp32", True, LONG, 1),
    "whole, bf16, recomputed": (NoAdapter(), "bf16", True, LONG, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_traced_peak_is_the_allocators(tokenizer_folder: Path, case: str) -> None:
    adapter, dtype, recomputes, row, num_rows = CASES[case]
    plan = blueprint(tokenizer_folder, adapter, dtype, recomputes)
    traced = trace(plan, row, is_one_of_many=num_rows > 1)
    measured = measured_peak(plan, row, num_rows)
    assert traced.peak == pytest.approx(measured, rel=0.03), f"{traced.peak / measured - 1:+.1%}"
