"""Work that others wrote, tried apart: it ends, or it is ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from llava_moe.data.timeout_process import ends_within


def test_work_that_ends_does_and_what_it_raises_is_an_end_too() -> None:
    def fail() -> None:
        raise ValueError("the caller meets it again")

    assert ends_within(lambda: None, 10, 1 << 30) and ends_within(fail, 10, 1 << 30)


def test_work_that_takes_too_long_or_too_much_is_ended() -> None:
    began = time.monotonic()
    assert not ends_within(lambda: time.sleep(60), 0.2, 1 << 30)
    assert not ends_within(lambda: bytearray(1 << 30), 10, 64 << 20)
    assert time.monotonic() - began < 10


def test_a_signal_that_ends_the_wait_ends_the_work(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    def work() -> None:
        told.write_text(str(os.getpid()))
        time.sleep(60)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            ends_within(work, 30, 1 << 30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
