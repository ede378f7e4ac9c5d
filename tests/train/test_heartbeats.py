"""Of processes that wait for each other, the one that does not come is named."""

from __future__ import annotations

import time

import pytest

from llava_moe.train import heartbeats
from llava_moe.train.heartbeats import Beat
from llava_moe.train.pulse import LONG_WORK, Pulse


def beat(
    phase: str, age: float, step: int = 4, waits: bool = False, patience: float = 1.0, **more: tuple[str, ...]
) -> Beat:
    return Beat("node", 7, 3, phase, step, waits, patience, age, **more)


def stalled(beats: dict[int, Beat], silent: dict[int, float], seconds: float, world: int | None = None) -> str | None:
    return heartbeats.stalled(beats, silent, seconds, len(beats) if world is None else world)


SUM = ("a sum over processes", 31.0)
NEW = dict.fromkeys(range(4), 0.0)


def test_nobody_is_named_while_one_moves_or_has_time() -> None:
    beats = {0: beat(*SUM, waits=True), 1: beat("reading samples", 29.0)}
    assert stalled({0: beat("the forward pass", 2.0), 1: beat("reading samples", 29.0)}, NEW, 30) is None
    assert stalled({0: beat("saving a checkpoint", 299.0, patience=LONG_WORK)}, NEW, 30) is None
    assert stalled(beats | {0: beat("a sum over processes", 29.0, waits=True)}, NEW, 30) is None


def test_who_works_and_stands_is_named_before_those_who_wait() -> None:
    stands = beat("the forward pass", 33.0, samples=("photos 7", "photos 9"), stack=("a/b.py:3 f", "a/c.py:9 g"))
    told = stalled({0: beat(*SUM, waits=True), 1: stands, 2: beat(*SUM, waits=True)}, NEW, 30)
    assert told == (
        "process 1 (pid 7 on node) stands still for 33 s in the forward pass at step 5, samples photos 7, photos 9, "
        "at a/b.py:3 f < a/c.py:9 g"
    )


def test_who_waits_is_not_named_while_who_it_waits_for_has_time_left() -> None:
    beats = {0: beat(*SUM, waits=True), 1: beat("reading samples", 2.0)}
    assert stalled(beats, NEW, 30) is None
    assert stalled(beats, NEW | {1: 29.0}, 30) is None
    told = stalled(beats, NEW | {1: 31.0}, 30)
    assert told is not None and told.startswith("process 1 ") and "process 0" not in told
    assert stalled({0: beat(*SUM, waits=True)}, NEW, 30, world=2) is None


def test_who_gives_no_sign_is_named_alone() -> None:
    beats = {0: beat(*SUM, waits=True), 1: beat("the backward pass", 1.0), 2: beat("the backward pass", 40.0)}
    told = stalled(beats, NEW | {1: 34.0}, 30)
    assert told == ("process 1 (pid 7 on node) gives no sign of life for 34 s; it was in the backward pass at step 5")


def test_where_all_wait_those_at_another_meeting_are_named() -> None:
    beats = {rank: beat(*SUM, waits=True) for rank in range(4)} | {2: beat("the update", 32.0, waits=True)}
    told = stalled(beats, NEW, 30)
    assert told is not None and told.startswith("process 2 ") and "process 1" not in told and "the update" in told
    alike = stalled({rank: beat(*SUM, waits=True) for rank in range(2)}, NEW, 30)
    assert alike is not None and "process 0" in alike and "process 1" in alike


def test_a_job_that_was_suspended_begins_its_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse()
    beats = heartbeats.Heartbeats("a", 0, 2, 30, pulse, lambda epoch, index: [], lambda told: None)
    beats._heard, beats._answered, pulse.since = {1: (3, 0.0)}, 0.0, 0.0
    clock = iter([10.0, 15.0, 20.0, 420.0, 420.5, 421.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(beats._over, "wait", lambda seconds: False)
    assert not beats._is_over() and beats._heard and pulse.since == 0.0, "it waited for as long as it was to"
    assert not beats._is_over() and not beats._heard and pulse.since == beats._answered == 420.5


def test_a_beat_is_read_as_it_was_written() -> None:
    one = beat("the forward pass", 1.5, samples=("a", "b"), stack=("c",))
    assert Beat.read(one.written().encode()) == one


def test_long_work_has_ten_times_as_long_and_then_no_more() -> None:
    pulse = Pulse(step=3)
    with pulse.long_work():
        assert not pulse.place.waits and pulse.place.patience > 1e6, "a benchmark passes no engine"
        pulse.at("the forward pass")
        assert pulse.place.patience == LONG_WORK and pulse.place.step == 3
    assert pulse.place.patience == 1.0
    pulse.stepped()
    pulse.at("a sum over processes", waits=True)
    assert pulse.place.step == 4 and pulse.place.waits
