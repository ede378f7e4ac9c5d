"""A traced step on the devices that share it: what each holds, in one process or under DeepSpeed's ZeRO.

DeepSpeed itself cannot be traced without its processes. What it allocates beside the model is read from its source
(deepspeed 0.19, ``runtime/zero/stage_1_and_2.py`` and ``stage3.py``) and applied to the tensors that train. With P
numbers that train, N devices and b bytes of a number of the weights:

| stage | weights | gradients | fp32 masters and AdamW | buffers |
|---|---|---|---|---|
| none: `parallel=ddp` | whole | 4 P | 12 P | the summed gradients once more, 4 P |
| 0 (fp32) | whole | 4 P | 8 P | all-reduce in pieces of a bucket |
| 1 | whole | 4 P, fp32 | 12 P / N | a bucket, fp32 |
| 2 | whole | 4 P / N, twice in the update | 12 P / N | a bucket of b bytes a number |
| 3 | all / N | 4 P / N | 12 P / N | a bucket, up to 1e9 gathered weights and 5e7 on their way |

A bucket has P numbers, at most 5e8, unless ``parallel.extra`` says otherwise.

Planned against what the allocator held at most in two processes on a CPU, bf16, 17.5 M numbers and a bucket of 1e6:
everything trained, stage 1 +7 %, stage 2 -2 %, stage 3 -4 %; LoRA, stage 2 +1 %, stage 3 -13 %.

Offloading moves masters, AdamW and partitioned gradients (and, of stage 3, weights) to the machine's memory.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from llava_moe.plan.trace import Traced
from llava_moe.run_config import ParallelConfig

BUCKET = 500_000_000
LIVE_WEIGHTS = 1_000_000_000
PREFETCHED_WEIGHTS = 50_000_000


@dataclass(frozen=True)
class Parallel:
    """How the devices share a run.

    Attributes:
        stage: ZeRO's stage; None without DeepSpeed: one process, or several with the whole model each.
        bucket: numbers of DeepSpeed's reduction bucket; None: what trains, at most 5e8.
        may_divide: ZeRO-2 is taken where state that is whole on each device does not fit (``parallel=auto``).
    """

    num_devices: int = 1
    stage: int | None = None
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket: int | None = None
    may_divide: bool = False

    @property
    def name(self) -> str:
        """The words that give it, behind ``parallel=``."""
        if self.stage is None:
            return "single" if self.num_devices == 1 else "ddp"
        if self.offload_parameters:
            return "zero3_offload"
        return f"zero{self.stage}" + (" parallel.offload_optimizer=true" if self.offload_optimizer else "")


@dataclass(frozen=True)
class Memory:
    """Bytes on each device at the peak of a step, by part; ``host``: bytes of each process in the machine's memory.

    Attributes:
        inputs: the step's token ids, labels and pixels, which stand on the device together.
        buffers: DeepSpeed's.
        at_start: what stands once while the model is put together, where that is more.
    """

    weights: int
    adapter: int
    gradients: int
    masters: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    inputs: int
    buffers: int = 0
    host: int = 0
    at_start: int = 0

    @property
    def total(self) -> int:
        """Bytes that the device must have room for."""
        parts = sum(getattr(self, field.name) for field in fields(self) if field.name not in ("host", "at_start"))
        return max(parts, self.at_start)

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"total": self.total}


def spread(traced: Traced, parallel: Parallel, inputs: int) -> Memory:
    """What one of the devices holds."""
    memory = Memory(
        weights=traced.base,
        adapter=traced.adapter,
        gradients=traced.gradients,
        masters=traced.masters,
        optimizer=traced.optimizer,
        activations=traced.activations,
        logits=traced.logits,
        temporary=traced.temporary,
        inputs=inputs,
    )
    if parallel.stage is not None:
        return _with_zero(memory, traced, parallel)
    # Gradients are flattened, bucket by bucket, and stand there while the update is made.
    buffers = 4 * traced.total_trained if parallel.num_devices > 1 else 0
    return replace(memory, buffers=buffers)


def _with_zero(memory: Memory, traced: Traced, parallel: Parallel) -> Memory:
    numbers, devices = traced.total_trained, parallel.num_devices
    is_half = set(traced.trained_dtypes) != {4}
    # DeepSpeed's stage 0 is not taken in bf16, see train.deepspeed_engine.
    stage = max(1 if is_half else 0, parallel.stage or 0)
    share = -(-numbers // devices)
    bucket = min(BUCKET, numbers) if parallel.bucket is None else parallel.bucket
    if stage == 0:
        return replace(memory, gradients=4 * numbers, optimizer=8 * numbers, buffers=4 * min(numbers, bucket))
    staging = 4 * len(traced.trained_dtypes) if stage == 1 else sum(traced.trained_dtypes)
    memory = replace(memory, masters=4 * share, optimizer=8 * share, buffers=bucket * staging)
    if stage == 1:
        # Whole gradients until the update, which flattens this device's share once more.
        memory = replace(memory, gradients=4 * numbers + 4 * share)
    else:
        # The update flattens this device's share once more, when activations are gone.
        spare = max(memory.temporary, 4 * share - memory.activations - memory.logits)
        memory = replace(memory, gradients=4 * share, temporary=spare)
    if stage == 3:
        whole = memory.weights + memory.adapter
        # What is being gathered stands twice, in pieces and joined; and so does the share of what trains.
        gathered = min(LIVE_WEIGHTS, traced.num_parameters) + min(PREFETCHED_WEIGHTS, traced.num_parameters)
        gathered = gathered * whole // max(1, traced.num_parameters) + 2 * share
        memory = replace(
            memory,
            weights=-(-memory.weights // devices),
            adapter=-(-memory.adapter // devices),
            buffers=memory.buffers + gathered,
            at_start=whole,
        )
    if parallel.offload_optimizer:
        moved = memory.masters + memory.optimizer + (memory.gradients if stage > 1 else 0)
        memory = replace(
            memory, masters=0, optimizer=0, gradients=memory.gradients if stage == 1 else 0, host=memory.host + moved
        )
    if parallel.offload_parameters:
        moved = memory.weights + memory.adapter
        memory = replace(memory, weights=0, adapter=0, host=memory.host + moved)
    return memory


def parallel_of(config: ParallelConfig, num_devices: int) -> Parallel:
    """What ``parallel=`` means on this many devices, as ``runs.processes`` settles it."""
    is_alone = num_devices == 1 and config.engine in ("auto", "auto_deepspeed")
    if config.engine in ("local", "ddp") or is_alone or (config.engine == "auto" and not config.asks_for_zero):
        return Parallel(num_devices, may_divide=config.engine == "auto" and not is_alone)
    # What is given there takes the place of all that this project says of it: then DeepSpeed's own bucket stands.
    own = config.extra.get("zero_optimization")
    bucket = None if own is None else int(own.get("reduce_bucket_size", BUCKET))
    return Parallel(num_devices, config.stage, config.offload_optimizer, config.offload_parameters, bucket)
