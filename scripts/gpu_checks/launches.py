"""Kernels that a piece of work starts on a GPU, and how often it waits for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
COPIES = ("Memcpy", "Memset")
CUDA = "CUDA"


@dataclass(frozen=True)
class Launches:
    """Kernels, copies apart, and waits of the host for the device."""

    kernels: int
    waits: int


def count_launches(work: Callable[[], object], device: torch.device) -> Launches:
    """Do some work and count; without a GPU there is nothing to count."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        work()
    # As they were noted: to make a tree of a hundred thousand events takes longer than the work.
    events: list[Any] = list(profiler.profiler.kineto_results.events())
    kernels = [event.name() for event in events if event.device_type().name == CUDA and not _is_mark(event)]
    return Launches(
        kernels=sum(not name.startswith(COPIES) for name in kernels),
        waits=sum(event.name() in WAITS for event in events),
    )


def _is_mark(event: Any) -> bool:
    """Whether it is a span that somebody named (``record_function``), as optimizers do, and no kernel."""
    return bool(event.is_user_annotation())
