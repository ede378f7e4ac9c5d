"""How long a step takes, from its arithmetic and from its operations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llava_moe.plan.devices import Device, device_named
from llava_moe.plan.dummy_rows import Row, RowPacking
from llava_moe.plan.hours import REACHED_OF_PRODUCTS, TIMES_AN_OPERATION, hours_of
from llava_moe.plan.max_row_length import MemoryNeed, RowLengthChoice
from llava_moe.plan.steps import SourceSteps, Steps
from llava_moe.plan.trace import Traced
from llava_moe.plan.zero_partition import Memory, Parallel

CPU = Device("cpu", 1 << 34, 1e11, 1e11, None, operation_seconds=2e-6)
STEPS = Steps(10, 10, (SourceSteps("charts", "charts", 40, 40, 4000, 400, False),), (), 100)


def need_of(num_operations: int) -> MemoryNeed:
    """A step of two rows, each of so many operations, and 200 of its 400 tokens in the row that was traced."""
    row = Row((200,), (1,), (20,))
    traced = Traced(
        *(0, 0, 0, 0, 0, 0, 0, 0, 0),
        num_parameters=0,
        num_trained={},
        largest_trained=0,
        trained_dtypes={},
        saved={},
        flops=10**9,
        work=[(10**9 // num_operations, 1000)] * num_operations,
        num_tokens=200,
        vocabulary=0,
        number_bytes=4,
    )
    seating = RowPacking((row,), (2, 2.0, 2), 1.0, 400, 2)
    return MemoryNeed(
        RowLengthChoice(256, False, Parallel()), Memory(*[0] * len(Memory.__dataclass_fields__)), seating, row, traced
    )


def test_a_cpu_computes_and_then_goes_on_in_python() -> None:
    hours = hours_of(need_of(500), STEPS, CPU, "fp32", None)
    assert hours is not None
    overhead = 2 * 500 * TIMES_AN_OPERATION * 2e-6
    assert hours.overhead == pytest.approx(overhead)
    assert hours.seconds_per_step == pytest.approx(2e9 / (1e11 * REACHED_OF_PRODUCTS) + overhead)
    assert hours.hours == pytest.approx(10 * hours.seconds_per_step / 3600)


def test_a_gpu_computes_while_python_goes_on() -> None:
    here = replace(device_named("a100-80", "bf16"), operation_seconds=2e-6)
    hours = hours_of(need_of(500), STEPS, here, "bf16", None)
    assert hours is not None
    assert hours.seconds_per_step == pytest.approx(2 * 500 * TIMES_AN_OPERATION * 2e-6)
    elsewhere = hours_of(need_of(500), STEPS, device_named("a100-80", "bf16"), "bf16", None)
    assert elsewhere is not None and elsewhere.overhead == 0 and elsewhere.seconds_per_step < hours.seconds_per_step


def test_a_share_that_is_given_is_all_that_counts() -> None:
    hours = hours_of(need_of(500), STEPS, CPU, "fp32", 0.5)
    assert hours is not None and hours.seconds_per_step == pytest.approx(2e9 / (1e11 * 0.5)) and hours.overhead == 0


def test_a_device_whose_rate_nobody_knows_has_no_hours() -> None:
    assert hours_of(need_of(1), STEPS, Device("newest", 1 << 34, None, None, None), "bf16", None) is None
