"""What fails in one rank: all learn of it where they meet, and nobody waits where they do not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from llava_moe.errors import INTERRUPTED, STOPPED, ReportedByRankZeroError, StoppedBySignalError, UserError
from llava_moe.train.last_step import LastWholeStep
from llava_moe.train.loop import _measures
from llava_moe.train.rank_errors import RankErrors
from llava_moe.train.state import RunState


class Rank:
    """One of two ranks, each a thread; a sum that one asks for alone fails after a while."""

    world, device = 2, torch.device("cpu")

    def __init__(self, rank: int, given: dict[int, torch.Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.given, self.barrier = rank, given, barrier

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.given[self.rank] = values
        self.barrier.wait()
        total = self.given[0] + self.given[1]
        self.barrier.wait()
        return total


def in_two_ranks(work: Callable[[RankErrors], object]) -> list[Any]:
    """What ``work`` gives or raises in each rank."""
    given: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(2, timeout=5)
    meetings = [RankErrors(Rank(rank, given, barrier)) for rank in (0, 1)]  # type: ignore[arg-type]

    def outcome(meeting: RankErrors) -> object:
        try:
            return work(meeting)
        except (UserError, ReportedByRankZeroError, MemoryError, threading.BrokenBarrierError) as error:
            return error, meeting.is_together

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(outcome, meetings))


def read_on(meeting: RankErrors) -> list[int]:
    def numbers() -> Iterator[int]:
        yield from (0, 1)
        if meeting.engine.rank == 1:
            raise UserError("a worker died")
        yield 2

    items, read = numbers(), []
    while (item := meeting.agree_on(partial(next, items, None))) is not None:
        read.append(item)
    return read


def test_what_one_rank_cannot_read_ends_both_at_one_step() -> None:
    (one, one_is_together), (two, two_is_together) = in_two_ranks(read_on)
    assert isinstance(one, ReportedByRankZeroError) and str(two) == "a worker died"
    assert one_is_together and two_is_together


def test_a_measure_that_fails_in_one_rank_between_meetings_ends_that_rank_at_once() -> None:
    def run_out(_: RunState, meeting: RankErrors) -> bool:
        if meeting.engine.rank == 1:
            raise MemoryError("a row")
        return bool(meeting.strongest(0))

    def work(meeting: RankErrors) -> object:
        last = LastWholeStep(RunState(), lambda _: None)
        # The launcher ends the other rank, as this thread does: it waits for one that went on to something else.
        try:
            return _measures(run_out, last, meeting)
        except MemoryError:
            meeting.engine.barrier.abort()  # type: ignore[attr-defined]
            raise

    (one, _), (two, two_is_together) = in_two_ranks(work)
    assert isinstance(one, threading.BrokenBarrierError)
    assert isinstance(two, MemoryError) and not two_is_together


def test_the_strongest_status_of_all_ranks_is_that_of_each() -> None:
    asked = {0: STOPPED, 1: INTERRUPTED}
    assert in_two_ranks(lambda meeting: meeting.strongest(asked[meeting.engine.rank])) == [INTERRUPTED] * 2
    assert in_two_ranks(lambda meeting: meeting.strongest(0)) == [0, 0]


def test_a_stop_that_all_have_agreed_on_is_kept_for_no_meeting() -> None:
    def stop() -> None:
        raise StoppedBySignalError("stopped", STOPPED)

    given: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(2, timeout=5)
    with pytest.raises(StoppedBySignalError):
        RankErrors(Rank(0, given, barrier)).attempt(stop)  # type: ignore[arg-type]
