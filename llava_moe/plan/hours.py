"""How long it takes: traced arithmetic at a device's rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llava_moe.plan.devices import Device

# Of what data sheets name, what a large matrix product and a copy reach (H200: 788 of 989 TFLOP/s, 4.3 of 4.8 TB/s).
GEMM_SHARE = 0.8
COPY_SHARE = 0.9
# Of that, what a step reaches beside launches, waits and attention's own inefficiency; and of matrix products alone,
# where bandwidth is not known. Assumptions, which a probe replaces.
REACHED = 0.75
REACHED_OF_PRODUCTS = 0.4


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
    """

    seconds_per_step: float
    hours: float
    device_hours: float
    mfu: float | None
    best_mfu: float | None
    flops_per_step: float


def hours_at(
    device: Device,
    dtype: str,
    flops_per_step: float,
    num_steps: int,
    num_devices: int,
    useful_share: float,
    mfu: float | None,
    work: Sequence[tuple[int, int]],
) -> Hours | None:
    """Time from arithmetic; None for a device whose rate nobody knows.

    Args:
        useful_share: work of all ranks over that of the busiest one, times their number.
        mfu: share of the data sheet's FLOP/s (of the measured rate on a CPU) that a step reaches; None: what ``work``
            allows, less what is assumed to be lost.
        work: a row's operations, for the best that the data sheet allows.
    """
    rate = device.flops(dtype)
    if rate is None:
        return None
    best = best_mfu(device, dtype, work)
    if mfu is None:
        mfu = REACHED_OF_PRODUCTS if best is None else REACHED * best
    seconds = flops_per_step / (num_devices * useful_share * rate * mfu)
    return Hours(
        seconds_per_step=seconds,
        hours=seconds * num_steps / 3600,
        device_hours=seconds * num_steps / 3600 * num_devices,
        mfu=mfu,
        best_mfu=best,
        flops_per_step=flops_per_step,
    )


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
