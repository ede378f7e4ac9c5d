"""Beside Hugging Face's Trainer and PEFT on one job: the same losses and gradients, in less time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.peers.hugging_face import DEFAULT, print_table, race
from tests.peers.job import Job, prepare


@pytest.mark.slow
def test_our_loop_loses_what_trainer_and_peft_lose_and_takes_less_time(tmp_path: Path) -> None:
    prepared = prepare(Job(num_steps=3), tmp_path)
    # race raises where losses differ by more than 1e-5 or first gradients by more than 1e-4 of their largest.
    # CPU seconds, so that other work on the machine does not count.
    rows = race(prepared, (DEFAULT,), num_rounds=2, clock=time.process_time)
    print_table(prepared, rows)
    assert rows[0].loss_difference < 1e-5
    assert rows[0].ratio_min > 1.3
