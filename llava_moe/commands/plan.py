"""``llava-moe plan``: what a command line of ``train`` will take, told before anything is trained or downloaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from llava_moe.assemble import ModelSpec, encoder_of, model_spec_of
from llava_moe.commands.data_job import begin
from llava_moe.commands.job import DataJob
from llava_moe.commands.plan_data import plan_data
from llava_moe.commands.plan_probe import Probed, probe_stage
from llava_moe.config.settings import optimizer_of
from llava_moe.data.encode import Encoder
from llava_moe.errors import UserError
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.model import FromShape
from llava_moe.plan.devices import Device, device_named
from llava_moe.plan.dummy_rows import NullImage
from llava_moe.plan.hours import measured
from llava_moe.plan.max_row_length import RowLengthChoice, RowTracer
from llava_moe.plan.stage import StagePlan, as_plain, plan_stage
from llava_moe.plan.terminal import print_plan, size
from llava_moe.plan.trace import Blueprint
from llava_moe.plan.zero_partition import Parallel, parallel_of
from llava_moe.runs.console import open_console, open_progress, say_next
from llava_moe.runs.objective import objective_of
from llava_moe.runs.processes import check_parallel
from llava_moe.runs.stage import trainable_parts
from llava_moe.runs.stages import Stage


def plan(job: DataJob) -> int:
    """Plan every stage, show it, and refuse what cannot fit."""
    begin(job)
    console, progress = open_console(), open_progress()
    choices = job.choices
    dtypes = [stage.config.train.dtype for stage in job.stages]
    device = device_named(choices["device"], dtypes[0])
    num_devices = choices["num_devices"] or max(1, torch.cuda.device_count() if choices["device"] is None else 1)
    planned = {str(stage.folder) for stage in job.stages}
    for stage in job.stages:
        _check(stage, num_devices, planned)
    if choices["probe"]:
        _check_probe(choices)
    plans, probes = [], []
    for stage in job.stages:
        plan, probed = _plan_stage(stage, device, num_devices, planned, choices, progress)
        print_plan(plan, console)
        if probed is not None:
            console.print(
                f"probe: {probed.num_steps} steps, {probed.seconds_per_step:.3g} s and {probed.tokens_per_step:,.0f} "
                f"tokens a step, {size(probed.peak)} at the peak ({'tensors' if device.is_gpu else 'whole process'})"
            )
        plans.append(plan)
        probes.append(probed)
    if choices["out"]:
        told = {"words": job.words, "stages": [_as_plain(*pair) for pair in zip(plans, probes, strict=True)]}
        file = Path(choices["out"]) / "plan.json"
        write_atomically(file, json.dumps(told, indent=1) + "\n")
        console.print(f"\nnumbers: {file}", soft_wrap=True)
    for plan in plans:
        _refuse_what_cannot_fit(plan)
    _say_next(console, job, num_devices, any(plan.steps.is_expected for plan in plans))
    return 0


def _check(stage: Stage, num_devices: int, planned: set[str]) -> None:
    """Refuse what ``train`` would refuse before it builds anything, data apart."""
    config = stage.config
    model_spec = model_spec_of(config)
    trainable_parts(config)
    check_parallel(config.parallel)
    if config.parallel.engine == "local" and num_devices > 1:
        raise UserError(f"parallel=single with num_devices={num_devices}: choose parallel=ddp (or zero2, zero3)")
    if model_spec.init_from is not None and model_spec.init_from not in planned:
        newest_checkpoint(Path(model_spec.init_from))


def _check_probe(choices: Mapping[str, Any]) -> None:
    here = "cpu" if not torch.cuda.is_available() else None
    if choices["device"] not in (None, here):
        raise UserError(
            f"probe=true measures this machine ({here or torch.cuda.get_device_name(0)}), and device="
            f"{choices['device']} is another: leave device= out, or probe=true"
        )


@dataclass(frozen=True)
class Bound:
    """A stage that is ready to be traced: on what, as it was asked for, and what a reader has to know of it."""

    bench: RowTracer
    asked: RowLengthChoice
    notes: tuple[str, ...]


def bound_stage(
    stage: Stage,
    device: Device,
    num_devices: int,
    planned: set[str],
    choices: Mapping[str, Any],
    progress: Console,
    another_model: str = "model=random_7b",
) -> Bound:
    """Count the steps of a stage and make ready to trace them.

    Args:
        planned: folders of runs that are yet to come, which the stage may start from.
        another_model: the word by which the command plans a model that has to be fetched from nowhere.

    Raises:
        UserError: what ``train`` would refuse, but for data that is not there yet.
    """
    config = stage.config
    model_spec = model_spec_of(config)
    if model_spec.init_from in planned:
        # That run is yet to come; its weights would not change what stands where.
        model_spec = replace(model_spec, init_from=None)
    encoder = _encoder(model_spec, another_model)
    data = plan_data(stage, encoder, progress)
    if choices["probe"] and data.missing:
        raise UserError(
            f"probe=true trains on the data, and {data.missing[0]} is not there: get it first, or leave probe=true out"
        )
    model_spec, notes = _without_cuda_kernels(model_spec, device)
    train = config.train
    if device.is_gpu and train.dtype == "bf16" and not device.has_bf16:
        notes = (*notes, f"{device.name} has no bf16 arithmetic: hours are those of fp16, which train does not offer")
    bench = RowTracer(
        blueprint=Blueprint(
            model_spec=model_spec,
            parts=trainable_parts(config),
            optimizer=optimizer_of(config),
            objective_of=objective_of,
            num_domains=len(data.mixture.domains),
            activation_checkpointing=train.activation_checkpointing,
            on_gpu=device.is_gpu,
        ),
        steps=data.steps,
        entry_bytes=math.prod(encoder.transform.no_pixels.shape[1:]),
        null_image=NullImage.of(encoder),
    )
    parallel = parallel_of(config.parallel, num_devices)
    asked = RowLengthChoice(train.tokens_per_micro_batch, train.activation_checkpointing, parallel)
    return Bound(bench, asked, (*data.notes, *notes))


def _plan_stage(
    stage: Stage,
    device: Device,
    num_devices: int,
    planned: set[str],
    choices: Mapping[str, Any],
    progress: Console,
) -> tuple[StagePlan, Probed | None]:
    bound = bound_stage(stage, device, num_devices, planned, choices, progress)
    train = stage.config.train
    with progress.status("tracing") as status:
        bound.bench.told = status.update
        plan = plan_stage(
            title=stage.title,
            bench=bound.bench,
            asked=bound.asked,
            device=device,
            dtype=train.dtype,
            samples_per_step=train.global_batch_size,
            keep_last=train.keep_last,
            mfu=choices["mfu"],
            notes=bound.notes,
        )
    return _with_probe(plan, stage, planned, choices, plan.asked.choice.parallel)


def _with_probe(
    plan: StagePlan,
    stage: Stage,
    planned: set[str],
    choices: Mapping[str, Any],
    parallel: Parallel,
) -> tuple[StagePlan, Probed | None]:
    if not choices["probe"] or not plan.fits:
        return plan, None
    if stage.config.init_from in planned:
        stage = replace(stage, config=stage.config.changed(init_from=None))
    probed = probe_stage(stage)
    mean_tokens = plan.steps.tokens / plan.steps.num_steps
    seconds = probed.seconds_per_step * mean_tokens / max(1.0, probed.tokens_per_step)
    seconds /= parallel.num_devices * plan.asked.seating.useful_share
    traced = plan.asked.traced
    hours = measured(
        seconds, plan.steps.num_steps, parallel.num_devices, traced.flops / traced.num_tokens * mean_tokens
    )
    return replace(plan, hours=hours), probed


def _encoder(model_spec: ModelSpec, another_model: str) -> Encoder:
    try:
        return encoder_of(model_spec)
    except UserError as error:
        if isinstance(model_spec.architecture, FromShape):
            raise
        reason = str(error).rstrip(".")
        raise UserError(
            f"{reason}; a plan reads its configuration and tokenizer alone: give a folder or a hub that can be "
            f"reached, or plan with {another_model}, which has the 7B's shape"
        ) from error


def _without_cuda_kernels(model_spec: ModelSpec, device: Device) -> tuple[ModelSpec, tuple[str, ...]]:
    """Attention that can be traced on any machine."""
    if device.is_gpu and model_spec.attn_implementation in ("auto", "flash_attention_2", "flex_attention"):
        note = "attention is traced as packed_sdpa; FlashAttention 2, where it is installed, takes no more"
        return replace(model_spec, attn_implementation="packed_sdpa"), (note,)
    return model_spec, ()


def _refuse_what_cannot_fit(plan: StagePlan) -> None:
    if plan.fits:
        return
    choice = plan.asked.choice
    told = (
        f"{plan.title}: needs {size(plan.asked.memory.total)} on each of {choice.parallel.num_devices} x "
        f"{plan.device.name}, which has {size(plan.room)} for it"
    )
    if plan.nearest is None:
        raise UserError(f"{told}; nothing that was tried fits: take a smaller model or a larger device")
    words = " ".join(plan.nearest.choice.words_since(choice))
    raise UserError(f"{told}; the nearest that fits: {words} ({size(plan.nearest.memory.total)})")


def _say_next(console: Console, job: DataJob, num_devices: int, is_expected: bool) -> None:
    train = f"llava-moe train {job.words}".rstrip()
    if num_devices > 1:
        train = f"torchrun --nproc-per-node {num_devices} -m llava_moe train {job.words}".rstrip()
    first = f"llava-moe data check {job.words}".rstrip()
    say_next(console, [train] if not is_expected else [f"{first}    # once the data is there", train])


def _as_plain(plan: StagePlan, probed: Probed | None) -> dict[str, Any]:
    return as_plain(plan) | {"probe": None if probed is None else asdict(probed)}
