"""A trace without content against training itself: what torch's allocator holds at once, and what is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from llava_moe.adapters import LlavaMole, Lora, MixLora, NoAdapter
from llava_moe.assemble import Assembled, new_model
from llava_moe.model import prepare_stage, recompute_activations
from llava_moe.model.families import LLAVA
from llava_moe.plan.dummy_rows import Row, hollow_batch
from llava_moe.plan.fake_tensors import FLOPS, FakeTensorTrace
from llava_moe.plan.trace import Blueprint, trace
from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer_step import take_step

CPU = torch.device("cpu")
SHORT = Row((90, 85, 80, 70), (1, 1, 1, 0), (9, 8, 12, 20))
LONG = Row((520, 500, 480, 300, 248), (1, 1, 1, 1, 0), (60, 30, 90, 100, 40))
MIX = LlavaMole(num_experts=3, r=32, lora_alpha=64, lora_dropout=0.05)
MakeBlueprint = Callable[..., Blueprint]


class Step:
    """A step for the loop."""

    epoch = index = 0
    keys: tuple[str, ...] = ()
    bad: tuple[Any, ...] = ()
    padding_share = 0.0

    def __init__(self, batches: tuple[Any, ...]) -> None:
        self.batches = batches


class RealStage:
    """The stage of a blueprint with its weights, and a step of rows with real pixels."""

    def __init__(self, plan: Blueprint, row: Row, num_rows: int) -> None:
        self.assembled: Assembled = new_model(plan.model_spec, CPU)
        attached, model = self.assembled.attached, self.assembled.model
        trains_adapter = "adapter" in plan.parts.learning_rates
        groups = prepare_stage(model, plan.parts, attached.trainable_parameters() if trains_adapter else {}, LLAVA)
        if plan.activation_checkpointing:
            recompute_activations(model)
        model.train()
        self.engine = LocalEngine(model, groups, plan.optimizer, CPU)
        self.objective, self.rates = plan.objective_of(self.assembled), [group.learning_rate for group in groups]
        batch = hollow_batch(row, self.assembled.encoder, FakeTensorTrace().fake)
        pixels = torch.zeros(batch.pixel_values.shape, dtype=torch.uint8)
        self.batches = (replace(batch, pixel_values=pixels),) * num_rows

    def step(self) -> None:
        take_step(self.engine, self.objective, Step(self.batches), self.rates, num_domains=3)

    def standing(self) -> int:
        """Bytes of weights, masters and optimizer state."""
        tensors = [*self.assembled.model.parameters(), *self.assembled.model.buffers(), *self.engine.masters.values()]
        tensors += [value for state in self.engine.optimizer.state.values() for value in state.values()]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def measured_peak(plan: Blueprint, row: Row, num_rows: int) -> int:
    """The most that torch's CPU allocator held at once in the second step of real training, weights included."""
    stage = RealStage(plan, row, num_rows)
    stage.step()
    now = most = stage.standing()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        stage.step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert len(events) > 100, "the allocator was watched"
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


CASES = {
    "lora, short rows": (Lora(r=16, lora_dropout=0.05), "fp32", False, SHORT, 1),
    "lora, several rows, bf16": (Lora(r=16, lora_dropout=0.05), "bf16", False, SHORT, 3),
    "llava_mole, 2048 tokens": (MIX, "fp32", False, LONG, 1),
    "llava_mole, 2048 tokens, bf16, recomputed": (MIX, "bf16", True, LONG, 1),
    "llava_mole in the order of experts": (LlavaMole(num_experts=4, r=8, dispatch="sorted"), "fp32", False, LONG, 1),
    "mixlora, bf16": (MixLora(num_factors=8, r=2), "bf16", False, SHORT, 1),
    "whole": (NoAdapter(), "fp32", False, SHORT, 1),
    "whole, bf16, several": (NoAdapter(), "bf16", False, LONG, 2),
    "whole, recomputed": (NoAdapter(), "fp32", True, LONG, 1),
    "whole, bf16, recomputed": (NoAdapter(), "bf16", True, LONG, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_traced_peak_is_the_allocators(blueprint: MakeBlueprint, case: str) -> None:
    adapter, dtype, recomputes, row, num_rows = CASES[case]
    plan = blueprint(adapter, dtype, recomputes)
    traced = trace(plan, row, is_one_of_many=num_rows > 1)
    measured = measured_peak(plan, row, num_rows)
    assert traced.peak == pytest.approx(measured, rel=0.03), f"{traced.peak / measured - 1:+.1%}"


def test_the_parts_sum_to_the_peak_and_are_the_tensors(blueprint: MakeBlueprint) -> None:
    plan = blueprint(MIX, "bf16")
    traced, stage = trace(plan, SHORT, is_one_of_many=True), RealStage(plan, SHORT, 1)
    stage.step()
    model, engine = stage.assembled.model, stage.engine
    own = {id(p) for p in stage.assembled.attached.parameters()}
    weights = [*model.parameters(), *model.buffers()]
    trained = sum(master.numel() for master in engine.masters.values())
    assert traced.base == sum(t.nbytes for t in weights if id(t) not in own)
    assert traced.adapter == sum(t.nbytes for t in weights if id(t) in own)
    # Routers are fp32 already and have no master beside them.
    assert traced.masters == sum(m.nbytes for name, m in engine.masters.items() if m is not engine.live[name])
    assert traced.gradients == 4 * trained == 4 * traced.total_trained
    assert traced.optimizer == sum(v.nbytes for state in engine.optimizer.state.values() for v in state.values())
    parts = ("base", "adapter", "masters", "optimizer", "gradients", "activations", "logits", "temporary")
    assert sum(getattr(traced, part) for part in parts) == traced.peak


@pytest.mark.parametrize("recomputes", [False, True])
def test_the_arithmetic_is_what_torch_counts_in_training(blueprint: MakeBlueprint, recomputes: bool) -> None:
    plan = blueprint(Lora(r=16), recomputes=recomputes)
    stage = RealStage(plan, SHORT, 1)
    known = {name: count for name, count in FLOPS.items() if "addmm_" in str(name) or "for_cpu" in str(name)}
    for count in known.values():
        cast(Any, count)._get_raw = True  # the counter hands it tensors, not shapes
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        stage.step()
    assert trace(plan, SHORT, is_one_of_many=False).flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_nothing_is_left_behind_by_a_trace(blueprint: MakeBlueprint) -> None:
    from llava_moe.assemble import new_model_without_weights

    hollow = FakeTensorTrace()
    with hollow:
        with hollow.fake:
            assembled = new_model_without_weights(blueprint(MIX).model_spec, CPU, place="cpu")
        for tensor in assembled.model.state_dict().values():
            hollow.see(tensor)
    assert hollow.live > sum(parameter.nbytes for parameter in assembled.model.parameters()) * 0.99
    del assembled, tensor
    import gc

    gc.collect()
    assert hollow.live < 1000
