"""Running out of memory, on any device, told as what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llava_moe.errors import UserError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    # torch has no class of its own for the CPU's allocator.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_errors_explained() -> Iterator[None]:
    """Turn running out of memory outside a row (building the model, updating it) into what to change.

    Raises:
        UserError: in the place of the memory error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if str(error).startswith("DataLoader worker"):
            raise UserError(
                f"a data worker died ({str(error).splitlines()[0].strip()}), most often killed for the memory it took: "
                "lower data.num_workers, or give the job more memory"
            ) from error
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "out of memory while the model was built, updated or saved, whatever the rows hold: spread it with "
            "parallel=zero3 or parallel=zero3_offload over more devices, set train.dtype=bf16, or take a smaller model"
        ) from error
