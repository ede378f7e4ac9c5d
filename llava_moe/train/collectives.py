"""What ranks do together over torch's default process group, whichever engine they run, and how a lost one is told."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


def own_device() -> torch.device:
    """The device of this process, which torch then uses: the GPU of its number on this machine, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def backend() -> str:
    """Of the group that exchanges tensors of :func:`own_device`."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def open_groups(kind: str, store: Any, rank: int, world: int, timeout: timedelta) -> None:
    """Open torch's default group.

    Args:
        kind: as :func:`backend`.
        store: that all processes have met by.
        timeout: how long one waits for the others in a collective, of this group and of any that is opened later.
    """
    # Trap: a group that says nothing, such as DeepSpeed's clone of the default one, waits for 10 or 30 minutes.
    distributed_c10d.default_pg_timeout = timeout
    distributed_c10d.default_pg_nccl_timeout = timeout  # type: ignore[attr-defined]
    dist.init_process_group(kind, store=store, rank=rank, world_size=world, timeout=timeout)


def close_groups() -> None:
    """Close the groups that :func:`open_groups` has opened, if they are there."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """A new tensor, the sum over ranks; all ranks must call it."""
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_from_ranks(value: object) -> list[Any]:
    """One picklable object of each rank, in rank order, on every rank; all ranks must call it."""
    collected: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(collected, value)
    return collected


LOST_RANK = "another process of this run is gone or does not answer: its own output says why"


def tells_of_a_lost_rank(error: BaseException) -> bool:
    """Whether a collective failed since another rank is gone or does not answer.

    Gloo tells it in words alone, of its own file of connections.
    """
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))
