"""Devices by name: memory, arithmetic and bandwidth, from their makers' data sheets; and the machine at hand."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.plan.speed import operation_seconds, product_rate
from llava_moe.text.did_you_mean import did_you_mean

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """A kind of device.

    Attributes:
        memory: bytes that torch may fill, as ``torch.cuda.get_device_properties`` tells them.
        half_flops: dense bf16 FLOP/s of the data sheet (fp16 where there is no bf16); ``single_flops``: fp32 without
            TF32. None where nobody has measured it.
        bandwidth: bytes a second of its memory; None where nobody has measured it.
        has_bf16: whether bf16 arithmetic is in hardware.
        reserve: bytes that are not for tensors: the CUDA context, libraries' workspaces, NCCL, and blocks that the
            allocator cannot join. An assumption.
        operation_seconds: of a small operation, measured at the machine at hand; None of all others.
    """

    name: str
    memory: int
    half_flops: float | None
    single_flops: float | None
    bandwidth: float | None
    has_bf16: bool = True
    reserve: int = 0
    operation_seconds: float | None = None

    @property
    def usable(self) -> int:
        """Bytes that tensors may take."""
        return max(0, self.memory - self.reserve)

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    def flops(self, dtype: str) -> float | None:
        """FLOP/s in ``fp32``, ``bf16`` or ``fp16``."""
        return self.single_flops if dtype == "fp32" else self.half_flops


def _gpu(name: str, gib: float, half: float, single: float, gigabytes: float, has_bf16: bool = True) -> Device:
    memory = int(gib * GIB)
    # 0.8 GiB for context and libraries, 4 % for blocks that cannot be joined.
    return Device(name, memory, half * 1e12, single * 1e12, gigabytes * 1e9, has_bf16, int(0.8 * GIB + 0.04 * memory))


# name, GiB as torch sees them, dense TFLOP/s in bf16 and fp32, GB/s
DEVICES = (
    _gpu("a100-40", 39.4, 312, 19.5, 1555),
    _gpu("a100-80", 79.2, 312, 19.5, 2039),
    _gpu("h100-80", 79.1, 989, 67, 3350),
    _gpu("h200-141", 139.8, 989, 67, 4800),
    _gpu("b200-180", 178.4, 2250, 80, 8000),
    _gpu("l40s-48", 44.4, 362, 91.6, 864),
    _gpu("l4-24", 22.0, 121, 30.3, 300),
    _gpu("a10-24", 22.1, 125, 31.2, 600),
    _gpu("a6000-48", 47.5, 155, 38.7, 768),
    _gpu("rtx5090-32", 31.4, 210, 104.8, 1792),
    _gpu("rtx4090-24", 23.6, 165, 82.6, 1008),
    _gpu("rtx3090-24", 23.6, 71, 35.6, 936),
    _gpu("v100-32", 31.7, 125, 15.7, 900, has_bf16=False),
    _gpu("v100-16", 15.8, 125, 15.7, 900, has_bf16=False),
    _gpu("t4-16", 14.6, 65, 8.1, 320, has_bf16=False),
)


def device_named(name: str | None, dtype: str) -> Device:
    """A device by name (``a100-80``, ``A100``, ``rtx 4090``, ``cpu``); None is the machine at hand.

    Raises:
        UserError: no such device, with the nearest name.
    """
    if name is None:
        return _here(dtype)
    if _plain(name) == "cpu":
        return _cpu_here(dtype)
    return _named(name)


def expect_known(name: str | None) -> None:
    """Refuse a device that :func:`device_named` does not know; nothing is measured, and torch is not loaded."""
    if name is not None and _plain(name) != "cpu":
        _named(name)


def _here(dtype: str) -> Device:
    """The machine at hand: its first GPU, or its CPU."""
    import torch

    return _cuda_here() if torch.cuda.is_available() else _cpu_here(dtype)


def _named(name: str) -> Device:
    wanted = _plain(name)
    fitting = [device for device in DEVICES if wanted in (plain := _plain(device.name), plain.rstrip("0123456789"))]
    fitting = fitting or [device for device in DEVICES if _plain(device.name.partition("-")[0]) == wanted]
    fitting = fitting or [device for device in DEVICES if _plain(device.name).removeprefix("rtx") == wanted]
    fitting = fitting or [
        device for device in DEVICES if _plain(device.name.partition("-")[0]).removeprefix("rtx") == wanted
    ]
    if fitting:
        return fitting[-1]
    known = [device.name for device in DEVICES]
    hint = did_you_mean(wanted, known, cutoff=0.4)
    raise UserError(f"device={name} is not known{hint}: choose one of {', '.join(known)}, or cpu")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|tesla|geforce|gib?b?$|gb$", "", name.lower())


def _cuda_here() -> Device:
    import torch

    properties = torch.cuda.get_device_properties(0)
    memory = int(properties.total_memory)
    reserve = int(0.8 * GIB + 0.04 * memory)
    name = _plain(properties.name)
    alike = [device for device in DEVICES if _plain(device.name.partition("-")[0]) in name]
    if not alike:
        return Device(properties.name, memory, None, None, None, reserve=reserve)
    nearest = min(alike, key=lambda device: abs(device.memory - memory))
    return replace(nearest, memory=memory, reserve=reserve, operation_seconds=operation_seconds())


def _cpu_here(dtype: str) -> Device:
    """This machine's memory, and the rate of its matrix products as they run now."""
    rate = product_rate(dtype)
    # Python, torch and the libraries; data workers are processes of their own.
    reserve = int(1.5 * GIB)
    return Device("cpu", machine_memory(), rate, rate, None, reserve=reserve, operation_seconds=operation_seconds())


def machine_memory() -> int:
    """Bytes of this machine's memory, or of the share that its control group allows."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(path)
        if file.is_file() and (told := file.read_text().strip()).isdecimal():
            return min(whole, int(told))
    return whole
