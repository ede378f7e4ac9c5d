"""Part 4: a step of stage 2 at its real size, beside what ``llava-moe plan`` foretells of it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from llava_moe.adapters import LlavaMole
from llava_moe.assemble import encoder_of
from llava_moe.data.batch import Batch
from llava_moe.plan.devices import Device, device_named
from llava_moe.plan.dummy_rows import NullImage, Row, StepSamples
from llava_moe.plan.hours import Hours, hours_of
from llava_moe.plan.max_row_length import MemoryNeed, RowLengthChoice, RowTracer
from llava_moe.plan.steps import SourceSteps, Steps
from llava_moe.plan.trace import Blueprint
from llava_moe.plan.zero_partition import Parallel
from llava_moe.runs.objective import objective_of
from llava_moe.train.expert_sums import ExpertSums
from llava_moe.train.loss import RunningSums
from llava_moe.train.optimizer import OptimizerSettings
from scripts.gpu_checks.launches import count_launches
from scripts.gpu_checks.report import Budget, Report
from scripts.gpu_checks.sizes import Sizes, shipped_adapters
from scripts.gpu_checks.trained import NUM_DOMAINS, PARTS, TrainedStage, spec_of

PART = "step"
DTYPE, WARM_UP = "bf16", 2
PEAK = 0.1
"""Share by which the allocator's peak may be away from the planned one."""
GIB = 1 << 30
ELSEWHERE = "h200-141"


def check_steps(sizes: Sizes, device: torch.device, report: Report, budget: Budget) -> None:
    """Speed and memory of each adapter; LLaVA-MoLE in the order of its experts, too."""
    adapters = shipped_adapters()
    mixture: LlavaMole = adapters["llava_mole"]
    seconds: dict[str, float] = {}
    # Without a GPU what is planned is another's, so that the same code runs.
    card = device_named(None if device.type == "cuda" else ELSEWHERE, DTYPE)
    for name, adapter in {**adapters, "llava_mole sorted": replace(mixture, dispatch="sorted")}.items():
        if why := budget.allows(sizes.step_seconds):
            report.skip(PART, name, why)
            continue
        need, hours = foretell(sizes, adapter, card)
        if need.memory.total > card.usable:
            needs = f"{need.memory.total / GIB:.1f} GiB of {card.usable / GIB:.1f}"
            report.skip(PART, name, f"plan says that it does not fit: {needs}")
            continue
        seconds[name] = measure(sizes, adapter, device, report, name, need, hours, card)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for name, base in (("llava_mole", "lora"), ("mixlora", "lora"), ("llava_mole sorted", "llava_mole")):
        if name in seconds and base in seconds:
            report.figure(PART, f"{name} / {base}: time of a step", seconds[name] / seconds[base], "")


def foretell(sizes: Sizes, adapter: Any, card: Device) -> tuple[MemoryNeed, Hours | None]:
    """What ``llava-moe plan`` says of a run whose steps are this row, on this device."""
    spec = spec_of(sizes.stepped, adapter, DTYPE, "packed_sdpa")
    encoder = encoder_of(spec)
    steps = _steps_of(sizes.stepped_row)
    blueprint = Blueprint(spec, PARTS, OptimizerSettings(), objective_of, NUM_DOMAINS, False, card.is_gpu)
    tracer = RowTracer(blueprint, steps, encoder.null_image.nbytes, NullImage.of(encoder))
    need = tracer.need(RowLengthChoice(sizes.stepped_row.num_tokens, False, Parallel()))
    return need, hours_of(need, steps, card, DTYPE, None)


def _steps_of(row: Row) -> Steps:
    samples, supervised = len(row.lengths), row.num_supervised
    source = SourceSteps("made up", "made up", samples, samples, row.num_tokens, supervised, False)
    step = StepSamples(*(np.asarray(one, np.int32) for one in (row.lengths, row.num_images, row.supervised)))
    return Steps(1, 1, (source,), (step,), longest=max(row.lengths))


def measure(
    sizes: Sizes,
    adapter: Any,
    device: torch.device,
    report: Report,
    name: str,
    need: MemoryNeed,
    hours: Hours | None,
    card: Device,
) -> float:
    """Train some steps and tell what they took; the median of their seconds."""
    stage = TrainedStage(spec_of(sizes.stepped, adapter, DTYPE), device)
    batches = [stage.packed(sizes.stepped_row)]
    for _ in range(WARM_UP):
        stage.step(batches)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [_timed(lambda: stage.step(batches), device) for _ in range(sizes.num_timed)]
    seconds = statistics.median(times)
    tokens, rate = sizes.stepped_row.num_tokens, card.flops(DTYPE)
    mfu = None if rate is None else 100 * need.traced.flops / seconds / rate
    planned = hours.seconds_per_step if hours else None
    told = f"{name}: a step of {tokens:,} tokens by {stage.assembled.attention.name}, median of {len(times)}"
    report.figure(PART, told, seconds, "s", planned)
    report.figure(PART, f"{name}: its slowest", max(times), "s")
    report.figure(PART, f"{name}: tokens a second", tokens / seconds, "/s", tokens / planned if planned else None)
    assumed = None if hours is None or hours.mfu is None else 100 * hours.mfu
    report.figure(PART, f"{name}: of the data sheet's arithmetic", mfu, "%", assumed)
    _tell_peak(device, report, name, need)
    _tell_launches(stage, batches[0], report, name)
    return seconds


def _timed(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _tell_peak(device: torch.device, report: Report, name: str, need: MemoryNeed) -> None:
    planned = need.memory.total
    if device.type != "cuda":
        report.figure(PART, f"{name}: peak of the allocator", None, "GiB", planned / GIB)
        return
    peak = torch.cuda.max_memory_allocated(device)
    report.figure(PART, f"{name}: peak of the allocator", peak / GIB, "GiB", planned / GIB)
    report.check(PART, f"{name}: planned peak beside it", abs(planned / peak - 1), PEAK)


def _tell_launches(stage: TrainedStage, batch: Batch, report: Report, name: str) -> None:
    """Kernels and waits of a step, and of what writes the ledger of one of its rows."""
    device = stage.engine.device
    step = count_launches(lambda: stage.step([batch]), device)
    report.figure(PART, f"{name}: kernels of a step", step.kernels, "")
    report.figure(PART, f"{name}: waits of the host in a step", step.waits, "")
    here = batch.to(device)
    with torch.no_grad():
        losses_N, targets = stage.objective.token_losses_N(stage.engine, here)
        sums, experts = RunningSums(NUM_DOMAINS, device), ExpertSums()

        def write_ledger() -> None:
            sums.add_losses(losses_N, targets.domains_N)
            sums.add_row(here, 0.0)
            if stage.objective.expert_totals is not None:
                experts.add(stage.objective.expert_totals(here.domains, NUM_DOMAINS))

        ledger = count_launches(write_ledger, device)
    report.figure(PART, f"{name}: kernels of a row's ledger", ledger.kernels, "")
    report.figure(PART, f"{name}: waits of the host in a row's ledger", ledger.waits, "")
