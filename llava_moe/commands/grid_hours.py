"""How long the runs of a grid take, told before any of them: by their arithmetic, at the speed of this machine now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from rich.console import Console

from llava_moe.commands.plan import bound_stage
from llava_moe.grid.child import NUM_THREADS
from llava_moe.plan.devices import Device, device_named
from llava_moe.plan.hours import hours_of
from llava_moe.plan.max_row_length import MemoryNeed
from llava_moe.run_config import TrainConfig
from llava_moe.runs.stages import Stage


@dataclass(frozen=True)
class Estimate:
    """What trainings take, one after the other on one device: steps alone, neither their start nor measuring."""

    seconds: float
    num_steps: int


def estimate(
    stages: Mapping[str, Stage], num_runs: Mapping[str, int], planned: set[str], progress: Console
) -> Estimate | None:
    """What runs of these stages take; None on a GPU whose rate nobody knows.

    Steps and tokens are those of each stage. Of the stages that train the same parts one is traced, which takes
    seconds: adapters differ by a tenth or so.

    Args:
        stages: by names of any kind; ``num_runs``: how often each is trained.
        planned: folders of runs that are yet to come, which stages may start from.

    Raises:
        UserError: what ``plan`` would refuse of one of them.
    """
    traced: dict[frozenset[str], MemoryNeed] = {}
    seconds, num_steps = 0.0, 0
    devices: dict[tuple[str, int | None], Device] = {}
    for name, stage in stages.items():
        train = stage.config.train
        kind = (train.dtype, train.num_threads)
        if kind not in devices:
            devices[kind] = device_of_runs(None, train)
        bound = bound_stage(stage, devices[kind], 1, planned, {"probe": False}, progress)
        parts, steps = frozenset(stage.config.stage.learning_rates), bound.bench.steps
        if parts not in traced:
            with progress.status(f"tracing {name}"):
                traced[parts] = bound.bench.need(bound.asked)
        seating = steps.seat(bound.asked.tokens_per_row, 1, None)
        hours = hours_of(replace(traced[parts], seating=seating), steps, devices[kind], train.dtype, None)
        if hours is None:
            return None
        seconds += num_runs[name] * hours.hours * 3600
        num_steps += num_runs[name] * steps.num_steps
    return Estimate(seconds, num_steps)


def device_of_runs(name: str | None, train: TrainConfig) -> Device:
    """A device by name, or the machine at hand, whose CPU is measured on as many threads as a run of a grid has."""
    before = torch.get_num_threads()
    torch.set_num_threads(train.num_threads or NUM_THREADS)
    try:
        return device_named(name, train.dtype)
    finally:
        torch.set_num_threads(before)
