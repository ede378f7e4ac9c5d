"""How long it takes: traced arithmetic at a device's rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava_moe.plan.devices import Device
from llava_moe.plan.max_row_length import MemoryNeed
from llava_moe.plan.steps import Steps

# Of what data sheets name, what a large matrix product and a copy reach (H200: 788 of 989 TFLOP/s, 4.3 of 4.8 TB/s).
GEMM_SHARE = 0.8
COPY_SHARE = 0.9
# Of that, what a step reaches beside launches, waits and attention's own inefficiency: an assumption.
REACHED = 0.75
# Where bandwidth is not known: what a step's arithmetic reaches of matrix products alone, and how many times as long as
# a small operation alone one in a model takes, with the Python around it. Both fit steps of the demo's stages on one
# thread, with its model and with the tiny one (docs/measured.md). A probe replaces them all.
REACHED_OF_PRODUCTS = 0.4
TIMES_AN_OPERATION = 9


@dataclass(frozen=True)
class Hours:
    """Time of a run.

    Attributes:
        seconds_per_step: of the slowest rank; ``hours``: of the run, data and evaluation apart.
        device_hours: hours times devices.
        mfu: the share of the device's arithmetic that is assumed; None where seconds were measured.
        best_mfu: the share at which every operation runs as fast as arithmetic or bandwidth of the data sheet let it;
            None where nobody knows them.
        flops_per_step: of all ranks together.
        overhead: seconds of a step that its operations take whatever their arithmetic is, where that was measured.
    """

    seconds_per_step: float
    hours: float
    device_hours: float
    mfu: float | None
    best_mfu: float | None
    flops_per_step: float
    overhead: float = 0.0


def hours_of(need: MemoryNeed, steps: Steps, device: Device, dtype: str, mfu: float | None) -> Hours | None:
    """Time from traced arithmetic; None for a device whose rate nobody knows.

    Args:
        mfu: share of the data sheet's FLOP/s (of the measured rate on a CPU) that a step reaches, all else included;
            None: what a row's operations allow, less what is assumed to be lost.
    """
    rate = device.flops(dtype)
    if rate is None:
        return None
    traced, num_devices = need.traced, need.choice.parallel.num_devices
    best = best_mfu(device, dtype, traced.work)
    overhead = 0.0 if mfu is not None else _overhead(need, device)
    if mfu is None:
        mfu = REACHED_OF_PRODUCTS if best is None else REACHED * best
    flops_per_step = traced.flops / traced.num_tokens * steps.tokens / steps.num_steps
    arithmetic = flops_per_step / (num_devices * need.seating.useful_share * rate * mfu)
    # A GPU computes while Python goes on.
    seconds = max(arithmetic, overhead) if device.is_gpu else arithmetic + overhead
    return Hours(
        seconds_per_step=seconds,
        hours=seconds * steps.num_steps / 3600,
        device_hours=seconds * steps.num_steps / 3600 * num_devices,
        mfu=mfu,
        best_mfu=best,
        flops_per_step=flops_per_step,
        overhead=overhead,
    )


def _overhead(need: MemoryNeed, device: Device) -> float:
    """Seconds of a step that its operations take whatever their arithmetic is; 0 where nobody has measured it."""
    per_row = len(need.traced.work) * need.row.num_tokens / need.traced.num_tokens
    return per_row * need.seating.rows_per_rank[1] * TIMES_AN_OPERATION * (device.operation_seconds or 0.0)


def measured(seconds_per_step: float, num_steps: int, num_devices: int, flops_per_step: float) -> Hours:
    """Time from seconds that were measured."""
    hours = seconds_per_step * num_steps / 3600
    return Hours(seconds_per_step, hours, hours * num_devices, None, None, flops_per_step)


def best_mfu(device: Device, dtype: str, work: Sequence[tuple[int, int]]) -> float | None:
    """MFU if each operation took the longer of its arithmetic and its traffic, no launch or wait between them."""
    rate = device.flops(dtype)
    if rate is None or device.bandwidth is None:
        return None
    seconds = sum(max(flops / (GEMM_SHARE * rate), moved / (COPY_SHARE * device.bandwidth)) for flops, moved in work)
    return sum(flops for flops, _ in work) / rate / seconds if seconds else None
