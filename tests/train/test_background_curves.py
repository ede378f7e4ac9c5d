"""What viewers of curves share: numbers under their names, and a viewer that fails is given up in a line."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from llava_moe.train import background_calls
from llava_moe.train.background_curves import BackgroundCurves
from llava_moe.train.log import StepRecord


class Listed(BackgroundCurves):
    """Curves that go to a list."""

    def __init__(self, viewer: list[Any], told: list[str]) -> None:
        super().__init__("viewer", told.append)
        self._viewer = viewer

    @staticmethod
    def _add(viewer: Any, numbers: Mapping[str, float], step: int) -> None:
        if step == 13:
            raise OSError("the disk\nis gone")
        viewer.append((step, dict(numbers), threading.current_thread().name))

    def settle(self) -> None:
        """Wait for what was sent."""
        self.calls.within(lambda: None, 10)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def viewer() -> list[Any]:
    return []


@pytest.fixture
def curves(viewer: list[Any], told: list[str]) -> Listed:
    return Listed(viewer, told)


def record(step: int) -> StepRecord:
    return StepRecord({"step": step, "loss": 0.5, "stage": "text", "domains": {"general": {"samples": 3}}})


def test_steps_and_scores_reach_the_viewer_by_a_thread_under_their_names(
    curves: Listed, viewer: list[Any], told: list[str]
) -> None:
    curves.write(record(4))
    curves.write_scores(4, {"held_out_loss": 1.5})
    curves.settle()
    assert viewer == [
        (4, {"step": 4.0, "loss": 0.5, "domains/general/samples": 3.0}, "viewer"),
        (4, {"validation/held_out_loss": 1.5}, "viewer"),
    ]
    assert not told


def test_a_viewer_that_fails_is_told_once_and_asked_no_more(curves: Listed, viewer: list[Any], told: list[str]) -> None:
    for step in (12, 13, 14, 15):
        curves.write(record(step))
        curves.settle()
    assert [step for step, *_ in viewer] == [12]
    assert told == [
        "viewer stopped (OSError the disk is gone): its curves end here; training goes on, log.jsonl has every number"
    ]


def test_a_viewer_that_takes_nothing_is_given_up_before_memory_is(
    curves: Listed, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_calls, "MOST_WAITING", 3)
    answer = threading.Event()
    curves.calls.submit(lambda: answer.wait(30))
    for step in range(8):
        curves.write_scores(step, {})
    answer.set()
    assert told == [
        "viewer stopped (3 steps wait to be taken): its curves end here; training goes on, log.jsonl has every number"
    ]
