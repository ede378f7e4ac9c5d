"""Several processes that hold the whole model each, and sum their gradients once a step.

LoRA mixtures train little of a frozen model: to divide weights or gradients over devices costs more than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from llava_moe.train.buckets import bucketed
from llava_moe.train.collectives import gather_from_ranks, sum_over_ranks
from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer import OptimizerSettings, ParameterGroup

NUM_IN_BUCKET = 1 << 26
"""Numbers that travel together: 256 MiB."""


class DataParallelEngine:
    """One rank. All hold equal fp32 masters, sum fp32 gradients, and take the same update by themselves.

    What is saved is what one process saves, so that any number of ranks goes on from it.
    """

    can_skip = True

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[ParameterGroup],
        settings: OptimizerSettings,
        device: torch.device,
        num_in_bucket: int = NUM_IN_BUCKET,
    ) -> None:
        self.alone = LocalEngine(module, groups, settings, device)
        self.rank, self.world, self.device = dist.get_rank(), dist.get_world_size(), device
        self.module = self.alone.module
        self._buckets = list(bucketed(self.alone.masters.values(), num_in_bucket))
        self._begin_alike()

    def _begin_alike(self) -> None:
        """What is random at the start is drawn from one seed; devices of two kinds may draw it otherwise."""
        with torch.no_grad():
            for name, master in self.alone.masters.items():
                dist.broadcast(master, 0)
                self.alone.live[name].copy_(master)

    def forward(self, **inputs: Any) -> Any:
        """Run the model; no rank waits for another."""
        return self.alone.forward(**inputs)

    def backward(self, loss: torch.Tensor, is_last: bool) -> None:
        """Add the gradients of ``loss``, a share of the global objective, to this rank's sum in fp32."""
        self.alone.backward(loss, is_last)

    def step(self, learning_rates: Sequence[float]) -> float:
        """Sum the gradients over ranks, then as one process: clip, update, clear; return the global norm."""
        self._sum_gradients()
        return self.alone.step(learning_rates)

    def _sum_gradients(self) -> None:
        """One all-reduce for each bucket.

        What had no gradient on any rank keeps none, as in one process: a step without images moves no projector, and
        counts none for its moments. Which those are travels in front of the first bucket.
        """
        masters = [master for bucket in self._buckets for master in bucket]
        has_gradient = torch.tensor([float(master.grad is not None) for master in masters], device=self.device)
        takes_part: Iterator[bool] = iter(())
        for number, bucket in enumerate(self._buckets):
            front = [has_gradient] if number == 0 else []
            parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
            flat = torch.cat([*front, *(part.reshape(-1) for part in parts)])
            dist.all_reduce(flat)
            if number == 0:
                takes_part = iter((flat[: len(masters)] > 0).tolist())
                flat = flat[len(masters) :]
            for master, summed in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                master.grad = summed.view_as(master) if next(takes_part) else None

    def skip(self) -> None:
        """Clear the gradients of this step without an update."""
        self.alone.skip()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """A new tensor, the sum over ranks; all ranks must call it."""
        return sum_over_ranks(values)

    def gather(self, value: object) -> list[Any]:
        """One picklable object of each rank, in rank order, on every rank; all ranks must call it."""
        return gather_from_ranks(value)

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Copies of the fp32 masters by name, on the CPU of rank 0; empty on the others, which hold the same."""
        return self.alone.trained_tensors() if self.rank == 0 else {}

    def states(self) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        """Masters and AdamW's state by name, on rank 0; nothing on the others, which hold the same."""
        return self.alone.states() if self.rank == 0 else iter(())

    def save(self, folder: Path) -> None:
        """Write what one process writes; rank 0 alone does."""
        if self.rank == 0:
            self.alone.save(folder)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save`, or one process, wrote; all ranks call it.

        Raises:
            OSError, SafetensorError, ValueError: as :meth:`LocalEngine.load`.
        """
        self.alone.load(folder)

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()
