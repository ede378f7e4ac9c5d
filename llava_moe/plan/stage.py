"""The plan of one stage: its steps, what a device holds by part, what else would fit, disk and hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from llava_moe.plan.devices import Device
from llava_moe.plan.hours import Hours, hours_of
from llava_moe.plan.max_row_length import MemoryNeed, RowLengthChoice, RowTracer, longest_rows, nearest_fit
from llava_moe.plan.steps import Steps
from llava_moe.plan.zero_partition import Memory, Parallel, spread

# Rows are planned at the length that was asked for and at these multiples of it.
MULTIPLES = (1, 2, 4)


@dataclass(frozen=True)
class StagePlan:
    """What training a stage will take.

    Attributes:
        needs: at the asked length of row, twice and four times it.
        by_parallel: (parallel, memory of a device) of other ways to share the run, for the same row.
        longest_row: the most tokens of a row that fit the device; None where none do.
        share: tokens that a device has in a step: rows cannot be longer.
        nearest: where what was asked does not fit, the nearest that does.
        hours: None where the device's rate is not known.
        checkpoint: bytes of a checkpoint by part; ``disk``: most that a run has on disk at once.
        notes: what a reader has to know, a line each.
    """

    title: str
    device: Device
    dtype: str
    samples_per_step: int
    steps: Steps
    needs: tuple[MemoryNeed, ...]
    by_parallel: tuple[tuple[Parallel, Memory], ...]
    longest_row: int | None
    share: int
    fits: bool
    nearest: MemoryNeed | None
    hours: Hours | None
    checkpoint: Mapping[str, int]
    disk: int
    notes: tuple[str, ...]

    @property
    def asked(self) -> MemoryNeed:
        return self.needs[0]

    @property
    def room(self) -> int:
        return room_of(self.device, self.asked.choice.parallel)


def room_of(device: Device, parallel: Parallel) -> int:
    """Bytes that tensors of one process may take: processes on a CPU share the machine's memory."""
    return device.usable if device.is_gpu else device.usable // parallel.num_devices


def plan_stage(
    title: str,
    bench: RowTracer,
    asked: RowLengthChoice,
    device: Device,
    dtype: str,
    samples_per_step: int,
    keep_last: int,
    mfu: float | None,
    notes: tuple[str, ...],
) -> StagePlan:
    """Trace a stage and what is near it."""
    room = room_of(device, asked.parallel)
    asked = bench.settled(asked, room)
    needs = tuple(bench.need(replace(asked, tokens_per_row=asked.tokens_per_row * times)) for times in MULTIPLES)
    first = needs[0]
    fits = first.memory.total <= room
    known = {need.choice.tokens_per_row: need.memory.total for need in needs}
    grain = 256 if asked.tokens_per_row >= 1024 else 32
    longest = longest_rows(bench, asked, room, known, grain)
    # Before the nearest is sought: it then knows what stands under DeepSpeed, too.
    by_parallel = _by_parallel(bench, first)
    nearest = None
    if not fits:
        nearest = nearest_fit(bench, asked, lambda parallel: room_of(device, parallel), grain)
    checkpoint = first.traced.saved
    return StagePlan(
        title=title,
        device=device,
        dtype=dtype,
        samples_per_step=samples_per_step,
        steps=bench.steps,
        needs=needs,
        by_parallel=by_parallel,
        longest_row=longest,
        share=first.seating.most_tokens,
        fits=fits,
        nearest=nearest,
        hours=hours_of(first, bench.steps, device, dtype, mfu),
        checkpoint=checkpoint,
        # A new checkpoint is whole before the oldest goes.
        disk=sum(checkpoint.values()) * (keep_last + 1),
        notes=notes,
    )


def _by_parallel(bench: RowTracer, need: MemoryNeed) -> tuple[tuple[Parallel, Memory], ...]:
    """The asked row under each way to share a run, on the asked number of devices and on eight."""
    asked = need.choice.parallel
    found: list[tuple[Parallel, Memory]] = []
    for num_devices in dict.fromkeys((asked.num_devices, 8)):
        for parallel in (
            Parallel(num_devices),
            *(Parallel(num_devices, stage) for stage in (0, 1, 2, 3)),
            Parallel(num_devices, 2, offload_optimizer=True),
            Parallel(num_devices, 3, offload_optimizer=True, offload_parameters=True),
        ):
            parallel = replace(parallel, bucket=asked.bucket)
            found.append((parallel, spread(bench.trace_row(need, parallel), parallel, need.memory.inputs)))
    return tuple(found)


def as_plain(plan: StagePlan) -> dict[str, Any]:
    """The plan as numbers and text, for a file."""

    def of_need(need: MemoryNeed) -> dict[str, Any]:
        return {
            "tokens_per_micro_batch": need.choice.tokens_per_row,
            "activation_checkpointing": need.choice.activation_checkpointing,
            "parallel": need.choice.parallel.name,
            "num_devices": need.choice.parallel.num_devices,
            "row_tokens": need.row.num_tokens,
            "row_images": sum(need.row.num_images),
            "row_supervised_tokens": need.row.num_supervised,
            "rows_per_rank": list(need.seating.rows_per_rank),
            "useful_share": need.seating.useful_share,
            "memory": need.memory.as_dict(),
        }

    return {
        "title": plan.title,
        "device": asdict(plan.device) | {"usable": plan.device.usable},
        "num_steps": plan.steps.num_steps,
        "steps_in_epoch": plan.steps.steps_in_epoch,
        "samples": plan.steps.samples,
        "tokens": plan.steps.tokens,
        "supervised_tokens": plan.steps.supervised,
        "is_expected": plan.steps.is_expected,
        "sources": [asdict(source) | {"passes": source.passes} for source in plan.steps.sources],
        "num_parameters": plan.asked.traced.num_parameters,
        "num_trained": dict(plan.asked.traced.num_trained),
        "needs": [of_need(need) for need in plan.needs],
        "by_parallel": [
            {"parallel": asdict(parallel) | {"name": parallel.name}, "memory": memory.as_dict()}
            for parallel, memory in plan.by_parallel
        ],
        "room": plan.room,
        "fits": plan.fits,
        "longest_row": plan.longest_row,
        "nearest": None if plan.nearest is None else of_need(plan.nearest),
        "hours": None if plan.hours is None else asdict(plan.hours),
        "checkpoint": dict(plan.checkpoint),
        "disk": plan.disk,
        "notes": list(plan.notes),
    }
