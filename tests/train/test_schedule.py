"""The schedule is Hugging Face's cosine with warm-up, step for step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments, get_cosine_schedule_with_warmup

from llava_moe.train.schedule import FEW_STEPS, Schedule, few_steps_note


def their_factors(num_steps: int, num_warmup_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)
    factors = []
    for _ in range(num_steps + 3):
        factors.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return factors


@pytest.mark.parametrize(("num_steps", "ratio"), [(1, 0.0), (1, 0.03), (7, 0.5), (10, 1.0), (100, 0.03), (333, 0.0)])
def test_factors_equal_transformers_cosine_with_warmup(num_steps: int, ratio: float) -> None:
    schedule = Schedule(num_steps, ratio)
    ours = [schedule.factor(step) for step in range(num_steps)]
    assert ours == pytest.approx(their_factors(num_steps, schedule.num_warmup_steps)[:num_steps], abs=1e-12)


@pytest.mark.parametrize("num_steps", [2, 33, 34, 100, 5197])
def test_warmup_steps_are_rounded_up_as_the_trainer_does(num_steps: int) -> None:
    theirs = TrainingArguments(warmup_steps=0.03, use_cpu=True, report_to="none").get_warmup_steps(num_steps)
    assert Schedule(num_steps, 0.03).num_warmup_steps == theirs == math.ceil(0.03 * num_steps)


def test_the_first_step_of_a_warmup_trains_nothing_and_the_last_step_is_not_at_zero() -> None:
    schedule = Schedule(100, 0.03)
    assert [schedule.factor(step) for step in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert 0 < schedule.factor(99) < 1e-3
    assert schedule.factor(100) == pytest.approx(0, abs=1e-12)


@given(num_steps=st.integers(1, 400), ratio=st.floats(0, 1))
def test_some_step_of_every_run_trains_at_a_rate_above_zero_and_the_last_one_does(num_steps: int, ratio: float) -> None:
    schedule = Schedule(num_steps, ratio)
    assert schedule.num_warmup_steps == min(math.ceil(ratio * num_steps), num_steps - 1)
    assert schedule.factor(num_steps - 1) > 0
    assert max(schedule.factor(step) for step in range(num_steps)) == 1


def test_a_run_of_one_step_trains_at_its_full_rate() -> None:
    assert [Schedule(1, ratio).factor(0) for ratio in (0.0, 0.03, 1.0)] == [1, 1, 1]


def test_a_run_of_few_steps_is_told_what_to_change() -> None:
    assert few_steps_note(FEW_STEPS, 128, None) is None
    told = few_steps_note(1, 128, None)
    assert told is not None and told.startswith("1 optimizer step in all") and "train.global_batch_size (128" in told
    ended = few_steps_note(19, 128, 19)
    assert ended is not None and "a larger train.max_steps (19 now)" in ended
