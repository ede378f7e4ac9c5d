"""The processes that train together, as a launcher started them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from llava_moe.errors import LostRankError, ReportedByRankZeroError, StoppedBySignalError, UserError
from llava_moe.eval.ranks import ALONE, Ranks
from llava_moe.run_config import ParallelConfig
from llava_moe.runs.free_memory import free_memory
from llava_moe.runs.meeting import meet, number_of_processes
from llava_moe.train.choose_engine import fits_on_each, state_bytes
from llava_moe.train.collectives import (
    LOST_RANK,
    backend,
    close_groups,
    open_groups,
    own_device,
    tells_of_a_lost_rank,
)

if TYPE_CHECKING:
    from llava_moe.train.deepspeed_engine import ZeroSettings

GIB = 2**30


@dataclass
class Processes:
    """This process among those that train together.

    Attributes:
        engine: ``local``, ``ddp`` or ``deepspeed``.
        group: torch's process group that objects travel in.
        is_auto: each stage settles for itself whether it takes ``ddp`` or ``deepspeed`` (:meth:`settle`).
    """

    rank: int
    world: int
    device: torch.device
    engine: str
    group: Any = None
    is_auto: bool = False

    @property
    def ranks(self) -> Ranks:
        """How they tell each other what is no tensor."""
        return Ranks(self.rank, self.world, self.group)

    def settle(self, num_trained: int, num_bytes_of_a_number: int, before: str | None = None) -> str | None:
        """Choose the engine, where that was left to us, by the memory that is free beside the model; all call it.

        Args:
            before: the one that a run was trained with so far: it goes on with that, however much is free today.

        Returns:
            What was chosen and why, in a line; None where nothing was to choose.

        Raises:
            UserError: what trains does not fit each device, and DeepSpeed is not installed.
        """
        if not self.is_auto:
            return None
        needed, free = state_bytes(num_trained, num_bytes_of_a_number), self._least_free()
        told = f"gradients and optimizer {needed / GIB:.2f} GiB, free on each {free / GIB:.1f}"
        is_whole = fits_on_each(needed, free)
        if before in ("ddp", "deepspeed"):
            told, is_whole = "as the run was begun", before == "ddp"
        if is_whole:
            self.engine = "ddp"
            return f"{self.world} processes: ddp ({told})"
        self.engine = "deepspeed"
        _start_deepspeed()
        return f"{self.world} processes: DeepSpeed ZeRO-2 divides what trains ({told})"

    def _least_free(self) -> int:
        """Bytes that are free for the process that has the least; those of one machine share its memory."""
        if self.device.type == "cuda":
            # What an earlier stage has given back to torch is free, too.
            torch.cuda.empty_cache()
            return min(self.ranks.gather(int(torch.cuda.mem_get_info(self.device)[0])))
        found = self.ranks.gather((socket.gethostname(), free_memory()))
        hosts = [host for host, _ in found]
        return min(free // hosts.count(host) for host, free in found)

    def wait(self) -> None:
        """Wait for all processes, for hours if need be."""
        if self.world > 1:
            torch.distributed.barrier(group=self.group)

    def leave(self) -> None:
        """Leave the others: after it nothing can be asked of them, and this object holds nothing of theirs.

        What DeepSpeed still holds of its groups lives on; ``cli.end_rank`` ends the process whatever lives.
        """
        self.group = None
        if self.engine == "deepspeed":
            from llava_moe.train import deepspeed_engine

            deepspeed_engine.leave_processes()
        elif self.engine == "ddp":
            close_groups()


@contextmanager
def training_together(parallel: ParallelConfig) -> Iterator[Processes]:
    """The processes that train together (:func:`join_processes`), left behind together at the end.

    Raises:
        UserError: one went while they waited for each other, before or after a training.
    """
    processes = join_processes(parallel)
    try:
        with lost_ranks_told():
            yield processes
    except (UserError, StoppedBySignalError, ReportedByRankZeroError):
        # Between collectives, where NCCL's groups may still wait for a rank that is elsewhere, and gloo's do not.
        if processes.device.type == "cpu":
            processes.leave()
        raise
    # The training is finished and saved: a rank that is lost here costs the others neither scores nor report.
    with suppress(RuntimeError):
        processes.wait()
    processes.leave()


def join_processes(parallel: ParallelConfig) -> Processes:
    """Find the other processes of a launcher, if there are any.

    Raises:
        UserError: several processes with the engine of one, no DeepSpeed, or as :func:`check_parallel`.
    """
    check_parallel(parallel)
    world = number_of_processes()
    engine = parallel.engine
    is_auto = engine == "auto" and world > 1 and not parallel.asks_for_zero
    if engine in ("auto", "auto_deepspeed"):
        engine = "local" if world == 1 else "ddp" if is_auto else "deepspeed"
    if engine == "ddp" and world == 1:
        engine = "local"
    if engine == "local":
        if world > 1:
            raise UserError(f"parallel=single with {world} processes: choose parallel=ddp (or zero2, zero3)")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Processes(0, 1, device, engine)
    device = own_device()
    if world == 1:
        _start_deepspeed()
        return Processes(0, 1, device, engine)
    timeout = timedelta(seconds=parallel.timeout_seconds)
    store = meet(parallel.join_seconds)
    with lost_ranks_told():
        open_groups(backend(), store, int(os.environ["RANK"]), world, timeout)
        # Objects travel by the machines' network, whatever the devices have among them.
        group = torch.distributed.new_group(backend="gloo", timeout=timeout)
    if engine == "deepspeed":
        _start_deepspeed()
    return Processes(int(os.environ["RANK"]), world, device, engine, group, is_auto)


def _start_deepspeed() -> None:
    from llava_moe.train.deepspeed_engine import start_processes

    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    start_processes()


@contextmanager
def answering_together() -> Iterator[tuple[Ranks, torch.device]]:
    """The processes that answer a benchmark together, as a launcher started them, and this one's device.

    Each holds a whole model; answers alone travel, over gloo. No DeepSpeed is needed.
    """
    world = number_of_processes()
    local = int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else 0
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if world == 1:
        yield ALONE, device
        return
    parallel = ParallelConfig()
    store, rank = meet(parallel.join_seconds), int(os.environ["RANK"])
    with lost_ranks_told():
        open_groups("gloo", store, rank, world, timedelta(seconds=parallel.timeout_seconds))
    try:
        yield Ranks(rank, world), device
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def lost_ranks_told() -> Iterator[None]:
    """Say in a line what a collective says whose other end is gone.

    Raises:
        UserError: one is.
    """
    try:
        yield
    except RuntimeError as error:
        if not tells_of_a_lost_rank(error):
            raise
        raise LostRankError(f"{LOST_RANK}; then run the same command again") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_parallel(parallel: ParallelConfig) -> None:
    """Refuse settings that no engine has, or not the one that is chosen: nothing given is ignored.

    Raises:
        UserError: naming the setting.
    """
    zero_of(parallel)
    if parallel.engine in ("local", "ddp"):
        for key in ("offload_optimizer", "offload_parameters", "extra"):
            if getattr(parallel, key):
                raise UserError(
                    f"parallel.{key} is DeepSpeed's, and parallel.engine={parallel.engine} is not: choose "
                    "parallel=zero2 (or zero3), or leave it out"
                )


def zero_of(parallel: ParallelConfig) -> ZeroSettings:
    """DeepSpeed's settings."""
    from llava_moe.train.deepspeed_engine import ZeroSettings

    return ZeroSettings(parallel.stage, parallel.offload_optimizer, parallel.offload_parameters, dict(parallel.extra))
