"""Which errors mean that memory ran out, and what is told then."""

from __future__ import annotations

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.train.memory import is_out_of_memory, memory_errors_explained

OF_TORCH = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(OF_TORCH)])
def test_memory_that_ran_out_is_told_with_what_to_change(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(UserError) as told, memory_errors_explained():
        raise error
    (line,) = str(told.value).splitlines()
    assert line.startswith("out of memory") and "parallel=zero3" in line and told.value.__cause__ is error


def test_a_real_allocation_that_is_too_large_is_recognized() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(failed.value)


def test_a_data_worker_that_was_killed_is_told_with_its_own_remedy() -> None:
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore lines")
    with pytest.raises(UserError) as told, memory_errors_explained():
        raise error
    (line,) = str(told.value).splitlines()
    assert line.startswith("a data worker died (DataLoader worker (pid 7) is killed by signal: Killed.)")
    assert "data.num_workers" in line


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of range")])
def test_other_errors_pass(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as same, memory_errors_explained():
        raise error
    assert same.value is error


def test_nothing_is_said_where_nothing_fails() -> None:
    with memory_errors_explained():
        pass
