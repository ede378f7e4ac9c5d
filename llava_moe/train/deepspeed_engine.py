"""DeepSpeed ZeRO 0-3 behind the engine protocol. DeepSpeed is imported here and in ``divided_state`` alone.

Traps named in the code: DeepSpeed averages over ranks and clips at 1.0 when it is not told otherwise; its shared-memory
communication extension compiles for half a minute on CPU machines although nothing here uses it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from llava_moe.errors import UserError
from llava_moe.train.collectives import backend, gather_from_ranks, sum_over_ranks
from llava_moe.train.divided_state import DividedState, UndividedState, UnreachedGroups, load_own_files, shape_of
from llava_moe.train.optimizer import OptimizerSettings, ParameterGroup, build_optimizer
from llava_moe.train.whole_state import WholeStateReader, file_of_state, write_states

BUCKET, ALIGNMENT = 500_000_000, 8
"""The most numbers of a bucket, DeepSpeed's own; and what its length is a multiple of."""


@dataclass(frozen=True)
class ZeroSettings:
    """How DeepSpeed spreads the model.

    Attributes:
        stage: ZeRO stage, 0 to 3.
        offload_optimizer: keep optimizer state and masters in CPU memory.
        offload_parameters: stage 3 only: keep the weights in CPU memory.
        extra: further keys of the DeepSpeed configuration, merged last.

    Raises:
        UserError: there is no such stage, or weights are to be offloaded at another than 3.
    """

    stage: int = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False
    extra: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise UserError(f"parallel.stage={self.stage}: ZeRO stages are 0, 1, 2 and 3")
        if self.offload_parameters and self.stage != 3:
            raise UserError("parallel.offload_parameters=true needs parallel.stage=3")


def start_processes() -> None:
    """Let DeepSpeed take the groups that are open; a process alone opens one of its own.

    Raises:
        UserError: DeepSpeed is not installed.
    """
    _import_deepspeed().init_distributed(dist_backend=backend(), verbose=False)


def leave_processes() -> None:
    """Destroy the process group that :func:`start_processes` joined, if it is there."""
    if dist.is_initialized():
        import deepspeed

        deepspeed.comm.destroy_process_group()


class DeepSpeedEngine:
    """One rank of a DeepSpeed run."""

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[ParameterGroup],
        settings: OptimizerSettings,
        zero: ZeroSettings,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        deepspeed = _import_deepspeed()
        self.rank, self.world, self.device = dist.get_rank(), dist.get_world_size(), device
        # DeepSpeed keeps reduced gradients in private buffers that only a step clears.
        self.can_skip = False
        # Trap: DeepSpeed's stage 0 in bf16 hides its masters and departs from one process from the first update on;
        # stage 1 is the same arithmetic with the optimizer spread over ranks.
        stage = max(1, zero.stage) if dtype == torch.bfloat16 else zero.stage
        self.tag = f"zero{stage}"
        self.live: dict[str, nn.Parameter] = {name: p for group in groups for name, p in group.parameters.items()}
        optimizer = build_optimizer(groups, self.live, settings, fused=False)
        self.engine, *_ = deepspeed.initialize(
            model=module.to(device),
            optimizer=optimizer,
            config=_configuration(zero, stage, settings, dtype, num_trained_in(self.live.values())),
        )
        self.module = self.engine.module
        # Stage 0 in fp32 leaves whole, reduced gradients on the parameters and reports no norm of its own.
        self.has_plain_gradients = stage == 0
        self.state = UndividedState(optimizer) if stage == 0 else DividedState(self.engine.optimizer)
        UnreachedGroups(optimizer)

    def forward(self, **inputs: Any) -> Any:
        """Run the model; under ZeRO-3 each rank waits in it for all others."""
        return self.engine(**inputs)

    def backward(self, loss: torch.Tensor, is_last: bool) -> None:
        """Add the gradients of ``loss``, a share of the global objective, to the sum over ranks."""
        self.engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed divides the sum over ranks by their number; our losses are shares of a global mean already.
        self.engine.backward(loss * self.world, scale_wrt_gas=False)

    def step(self, learning_rates: Sequence[float]) -> float:
        """Clip, update with one rate per parameter group, clear; return the L2 norm of the global gradient.

        NaN where DeepSpeed tells none. What a gradient that is not finite does is left to DeepSpeed: see ``can_skip``.
        """
        for group, rate in zip(self.engine.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        unsharded = [p.grad for p in self.live.values() if p.grad is not None] if self.has_plain_gradients else []
        norm = nn.utils.get_total_norm(unsharded) if unsharded else None
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        return float(norm) if norm is not None else float("nan")

    def skip(self) -> None:
        """There is no way to.

        Raises:
            ValueError: always.
        """
        raise ValueError("DeepSpeed cannot drop the gradients of a step: see can_skip")

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """A new tensor, the sum over ranks; all ranks must call it."""
        return sum_over_ranks(values)

    def gather(self, value: object) -> list[Any]:
        """One picklable object of each rank, in rank order, on every rank; all ranks must call it."""
        return gather_from_ranks(value)

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Full fp32 values of all trainable parameters by name, on the CPU of rank 0; empty on the others.

        All ranks must call it.
        """
        full = {}
        for name, parameter in self.live.items():
            value = self.state.master(parameter)
            # Eight ranks with 7 B values in fp32 each would fill a machine's memory for nothing.
            if self.rank == 0:
                full[name] = value.to("cpu", torch.float32, copy=True)
        return full

    def states(self) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        """Masters and AdamW's state by name, whole; all ranks must go through it.

        One parameter after the other is collected: what is divided is never whole in a device's memory.
        """
        for name, parameter in self.live.items():
            yield name, self.state.read(parameter)

    def save(self, folder: Path) -> None:
        """Write what one process writes (:mod:`llava_moe.train.whole_state`); all ranks call it, rank 0 writes."""
        if self.rank == 0:
            write_states(folder, self.states())
        else:
            deque(self.states(), maxlen=0)

    def load(self, folder: Path) -> None:
        """Read what any engine wrote, or DeepSpeed's own files of earlier run folders; all ranks call it.

        Raises:
            OSError, SafetensorError, ValueError: as :meth:`LocalEngine.load`.
            UserError: DeepSpeed's own files, of another number of processes or another stage, or not of tensors.
        """
        if (folder / self.tag).is_dir() or not file_of_state(folder, 1).exists():
            load_own_files(self.engine, folder, self.tag)
            self.state.bind()
            return
        reader = WholeStateReader(folder)
        reader.check({name: shape_of(parameter) for name, parameter in self.live.items()})
        with torch.no_grad():
            for name, parameter in self.live.items():
                self.state.write(parameter, reader.read(name))

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()


def _import_deepspeed() -> Any:
    # deepspeed sniffs for accelerators at import and warns on CPU machines unless it is told.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise UserError("several processes need DeepSpeed: pip install 'llava-moe[train]'") from error
    ready = getattr(deepspeed.ops, "__compatible_ops__", None)
    if ready is not None and not torch.cuda.is_available():
        ready["deepspeed_shm_comm"] = False
    return deepspeed


def num_trained_in(parameters: Iterable[nn.Parameter]) -> int:
    """Numbers that train, those of parameters that are divided already included."""
    return sum(int(getattr(one, "ds_numel", one.numel())) for one in parameters)


def _configuration(
    zero: ZeroSettings, stage: int, settings: OptimizerSettings, dtype: torch.dtype, num_trained: int
) -> dict[str, Any]:
    # Trap: DeepSpeed's own bucket is of 5e8 numbers, and there whole however little trains.
    # Trap: it refuses one that is no multiple of its alignment.
    bucket = min(BUCKET, -(-max(1, num_trained) // ALIGNMENT) * ALIGNMENT)
    optimization: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if zero.offload_optimizer:
        optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if zero.offload_parameters:
        optimization["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if stage == 3:
        optimization["stage3_gather_16bit_weights_on_model_save"] = False
    configuration = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.gradient_clipping,
        "zero_optimization": optimization,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if dtype == torch.bfloat16:
        # Micro-batches add up in fp32, as in one process: DeepSpeed's default sums them in bf16.
        configuration["data_types"] = {"grad_accum_dtype": "fp32"}
    return configuration | (zero.extra or {})
