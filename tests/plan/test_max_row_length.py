"""What fits: found by traces, in the order of what it costs; and what DeepSpeed's stages leave on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llava_moe.adapters import Lora, NoAdapter
from llava_moe.plan import max_row_length as fit
from llava_moe.plan.max_row_length import RowLengthChoice, RowTracer, longest_rows, nearest_fit
from llava_moe.plan.trace import trace
from llava_moe.plan.zero_partition import BUCKET, Parallel, parallel_of, spread
from llava_moe.run_config import ParallelConfig
from llava_moe.train.choose_engine import state_bytes

ONE = RowLengthChoice(2048, False, Parallel())
MakeBench = Callable[..., RowTracer]


def test_the_longest_rows_fit_and_longer_ones_do_not(bench: MakeBench) -> None:
    on = bench()
    asked = {tokens: on.need(replace(ONE, tokens_per_row=tokens)).memory.total for tokens in (512, 1024)}
    room = (on.need(replace(ONE, tokens_per_row=1600)).memory.total + asked[1024]) // 2
    found = longest_rows(on, ONE, room, asked, grain=32)
    assert found is not None and 1024 < found < 1600
    assert on.need(replace(ONE, tokens_per_row=found)).memory.total <= room
    assert on.need(replace(ONE, tokens_per_row=found + 160)).memory.total > 0.97 * room


def test_rows_are_no_longer_than_what_a_device_has_in_a_step(bench: MakeBench) -> None:
    on = bench()
    share = max(int(step.lengths.sum()) for step in on.steps.picked)
    known = {512: on.need(replace(ONE, tokens_per_row=512)).memory.total}
    assert longest_rows(on, ONE, 1 << 50, known, grain=32) == -(-share // 32) * 32
    assert longest_rows(on, ONE, 1 << 20, known, grain=32) is None


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is traced from here on."""
    found: list[Any] = []

    def counted(*words: Any) -> Any:
        found.append(words)
        return trace(*words)

    monkeypatch.setattr(fit, "trace", counted)
    return found


def test_benches_that_share_their_traces_trace_a_row_of_one_model_once(bench: MakeBench, traced: list[Any]) -> None:
    first, again, other = bench(), bench(), bench(adapter=NoAdapter())
    again.traces = other.traces = first.traces
    need = first.need(ONE)
    num_traced = len(traced)
    assert num_traced > 0 and again.need(ONE) == need and len(traced) == num_traced
    assert other.need(ONE).traced != need.traced and len(traced) > num_traced


def test_several_devices_divide_what_trains_only_where_it_leaves_too_little_room(bench: MakeBench) -> None:
    on = bench()
    choice = replace(ONE, tokens_per_row=256, parallel=Parallel(8, may_divide=True))
    traced = on.need(choice).traced
    stands, state = traced.base + traced.adapter, state_bytes(traced.total_trained, min(traced.trained_dtypes))
    for room, name in ((stands + 2 * state, "ddp"), (stands + 2 * state - 1, "zero2")):
        settled = on.settled(choice, room)
        assert settled.parallel.name == name and not settled.parallel.may_divide
        assert on.settled(settled, 0) == settled, "what is settled, or was asked for, stands"


def test_what_cannot_fit_by_its_weights_and_optimizer_alone_is_not_traced(bench: MakeBench, traced: list[Any]) -> None:
    on = bench(adapter=NoAdapter(), dtype="bf16")
    shared = [Parallel(8, 2, bucket=1000), Parallel(8, 3, bucket=1000), Parallel(8, 1, bucket=1000)]
    shared += [Parallel(1, 3, offload_optimizer=True, offload_parameters=True, bucket=1000)]
    choices = [replace(ONE, parallel=parallel) for parallel in (Parallel(), *shared)]
    assert not any(on.least(choice) for choice in choices), "nothing is known before the first trace"
    needs = [on.need(replace(choice, tokens_per_row=256)).memory.total for choice in choices]
    num_traced = len(traced)
    for choice, need in zip(choices, needs, strict=True):
        assert 0 < on.least(choice) < need
    # Longer rows and recomputation do not change what stands.
    assert on.least(ONE) == on.least(RowLengthChoice(256, True, Parallel()))
    assert longest_rows(on, ONE, on.least(ONE) - 1, {}, grain=32) is None
    assert nearest_fit(on, ONE, lambda parallel: on.least(replace(ONE, parallel=parallel)) - 1, grain=32) is None
    assert len(traced) == num_traced


@pytest.mark.slow
def test_the_nearest_fit_is_shorter_rows_then_recomputation_then_offloading(bench: MakeBench) -> None:
    # Little trains: where all does, the update is the peak of short rows, and to compute again saves nothing there.
    on = bench(adapter=Lora(r=2), dtype="bf16")
    lowest = on.need(replace(ONE, tokens_per_row=256)).memory.total
    asked = on.need(ONE).memory.total
    recomputed = on.need(replace(ONE, activation_checkpointing=True)).memory.total
    least = on.need(RowLengthChoice(256, True, Parallel())).memory.total
    assert least < recomputed < asked and lowest < asked

    def fitting(room: int) -> Any:
        found = nearest_fit(on, ONE, lambda _: room, grain=32)
        assert found is None or found.memory.total <= room
        return None if found is None else found.choice.words_since(ONE)

    (word,) = fitting((lowest + asked) // 2)
    assert word.startswith("train.tokens_per_micro_batch=") and 256 <= int(word.partition("=")[2]) < 2048
    assert fitting(lowest - 1)[-1:] == ["train.activation_checkpointing=true"]
    assert fitting(1 << 20) is None


def test_what_does_not_fit_one_device_fits_more_of_them(bench: MakeBench) -> None:
    on = bench(adapter=NoAdapter(), dtype="bf16")
    two = RowLengthChoice(256, True, Parallel(2, 2, bucket=100_000))
    room = on.need(replace(two, parallel=Parallel(16, 2, bucket=100_000))).memory.total
    found = nearest_fit(on, two, lambda parallel: 0 if parallel.offload_parameters else room, grain=32)
    assert found is not None
    assert found.choice.parallel.num_devices > 2 or found.choice.parallel.stage == 3


def test_stages_of_zero_divide_what_they_say(bench: MakeBench) -> None:
    on = bench(adapter=NoAdapter(), dtype="bf16", on_gpu=True)
    need = on.need(replace(ONE, parallel=Parallel(8, 2)))
    numbers = need.traced.total_trained
    stages = {stage: spread(need.traced, Parallel(8, stage), inputs=0) for stage in (1, 2, 3)}
    share = -(-numbers // 8)
    for stage, memory in stages.items():
        assert (memory.masters, memory.optimizer) == (4 * share, 8 * share), stage
    assert stages[1].gradients == 4 * numbers + 4 * share and stages[2].gradients == 4 * share
    assert stages[2].buffers == 2 * numbers < 2 * BUCKET
    asked = {"zero_optimization": {"stage": 2}}  # which stands in the place of all that is said of it here
    assert parallel_of(ParallelConfig("deepspeed", extra=asked), 8).bucket == BUCKET
    assert parallel_of(ParallelConfig("deepspeed"), 8).bucket is None
    replicated = on.need(replace(ONE, parallel=parallel_of(ParallelConfig("ddp"), 8))).memory
    assert (replicated.masters, replicated.buffers) == (4 * numbers, 4 * numbers)
    assert replicated.optimizer == pytest.approx(8 * numbers, rel=1e-3)  # and AdamW counts steps
    assert stages[3].weights == pytest.approx(stages[2].weights / 8, rel=1e-3)
    assert stages[3].at_start == stages[2].weights
    offloaded = spread(need.traced, Parallel(8, 3, offload_optimizer=True, offload_parameters=True), inputs=0)
    assert offloaded.masters == offloaded.optimizer == offloaded.gradients == offloaded.weights == 0
    assert offloaded.host == 16 * share + stages[3].weights
