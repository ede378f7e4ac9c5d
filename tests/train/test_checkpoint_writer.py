"""Checkpoints that are written beside the training hold what was there when they were asked for, and fail aloud."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.errors import ReportedByRankZeroError, UserError
from llava_moe.files.checkpoints import last_checkpoint, step_of
from llava_moe.train.checkpoint_writer import CheckpointWriter
from llava_moe.train.engine import LocalEngine
from llava_moe.train.state import RunState
from tests.tiny_training import Bigram, engine_of


class SlowDisk:
    """Weights whose writing waits, and fails where it is told to."""

    def __init__(self, is_open: bool = False) -> None:
        self.gate, self.is_full = threading.Event(), False
        if is_open:
            self.gate.set()

    def __call__(self, folder: Path, masters: Mapping[str, torch.Tensor]) -> None:
        assert self.gate.wait(timeout=20)
        if self.is_full:
            raise OSError(28, "No space left on device")
        torch.save({name: one.clone() for name, one in masters.items()}, folder / "weights.pt")


def trained() -> LocalEngine:
    engine = engine_of(Bigram(torch.float32))
    step(engine)
    return engine


def step(engine: LocalEngine) -> None:
    for master in engine.masters.values():
        master.grad = torch.ones_like(master)
    engine.step([0.1])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_written_beside_is_to_the_byte_what_is_written_at_once(tmp_path: Path) -> None:
    written = {}
    for name, has_room in (("beside", True), ("at once", False)):
        run, disk, engine = tmp_path / name, SlowDisk(is_open=not has_room), trained()
        run.mkdir()
        torch.manual_seed(3)
        writer = CheckpointWriter(run, engine, disk, has_room=partial(bool, has_room))
        writer.save(RunState(step=1))
        if has_room:
            assert last_checkpoint(run) is None, "it is not there while it is written"
        # The training goes on meanwhile, with weights, moments and random numbers.
        step(engine)
        torch.rand(9)
        disk.gate.set()
        writer.settle()
        written[name] = files_of(run)
    assert written["beside"] == written["at once"] and len(written["beside"]) > 4


def test_the_next_one_waits_for_the_one_before(tmp_path: Path) -> None:
    disk, engine = SlowDisk(), trained()
    writer = CheckpointWriter(tmp_path, engine, disk, has_room=lambda: True)
    writer.save(RunState(step=1))
    threading.Timer(0.2, disk.gate.set).start()
    writer.save(RunState(step=2))
    writer.settle()
    found = last_checkpoint(tmp_path)
    assert found is not None and step_of(found) == 2
    assert (tmp_path / "checkpoints" / "step-000001" / "COMPLETE").is_file()


@pytest.mark.parametrize("asks", ["check", "settle", "save"])
def test_what_fails_beside_is_raised_once_and_leaves_the_checkpoint_before(asks: str, tmp_path: Path) -> None:
    disk = SlowDisk(is_open=True)
    writer = CheckpointWriter(tmp_path, trained(), disk, has_room=lambda: True)
    writer.save(RunState(step=1))
    writer.settle()
    before = files_of(tmp_path)
    disk.is_full = True
    writer.save(RunState(step=2))
    if asks == "check":
        assert writer._thread is not None
        writer._thread.join()
    ask: dict[str, Any] = {
        "check": writer.check,
        "settle": writer.settle,
        "save": lambda: writer.save(RunState(step=3)),
    }
    with pytest.raises(UserError, match=r"step-000002: the disk is full"):
        ask[asks]()
    assert files_of(tmp_path) == before
    disk.is_full = False
    writer.save(RunState(step=4))
    writer.settle()
    found = last_checkpoint(tmp_path)
    assert found is not None and step_of(found) == 4


class Rank(LocalEngine):
    """One of two ranks, each a thread, that meet in sums."""

    def __init__(self, rank: int, meeting: threading.Barrier, told: dict[int, torch.Tensor]) -> None:
        alone = trained()
        self.__dict__.update(alone.__dict__)
        self.rank, self.world, self.meeting, self.told = rank, 2, meeting, told

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.told[self.rank] = values
        self.meeting.wait()
        total = self.told[0] + self.told[1]
        self.meeting.wait()
        return total

    def gather(self, value: object) -> list[Any]:
        self.meeting.wait()
        return [value, value]


def raised_in_two_ranks(train: Callable[[Rank], None]) -> dict[int, Exception]:
    """What ends each of two ranks that train so."""
    meeting, told = threading.Barrier(2, timeout=20), dict[int, torch.Tensor]()
    raised: dict[int, Exception] = {}

    def run(rank: Rank) -> None:
        try:
            train(rank)
        except Exception as error:
            raised[rank.rank] = error

    threads = [threading.Thread(target=run, args=(Rank(number, meeting, told),)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("has_room", [True, False])
def test_every_rank_ends_where_the_first_cannot_write_and_one_says_why(has_room: bool, tmp_path: Path) -> None:
    disk = SlowDisk(is_open=True)
    disk.is_full = True

    def train(rank: Rank) -> None:
        writer = CheckpointWriter(tmp_path, rank, disk, has_room=lambda: has_room)
        writer.save(RunState(step=1))
        writer.settle()

    raised = raised_in_two_ranks(train)
    assert isinstance(raised[0], UserError) and "the disk is full" in str(raised[0])
    assert isinstance(raised[1], ReportedByRankZeroError)


def test_what_cannot_be_copied_is_told_where_all_ranks_meet(tmp_path: Path) -> None:
    def no_room() -> bool:
        raise MemoryError("no room to copy")

    raised = raised_in_two_ranks(
        lambda rank: CheckpointWriter(tmp_path, rank, SlowDisk(is_open=True), has_room=no_room).save(RunState(step=1))
    )
    assert isinstance(raised[0], MemoryError) and isinstance(raised[1], ReportedByRankZeroError)


def test_a_wait_for_a_file_is_a_phase_of_its_own(tmp_path: Path) -> None:
    disk, waits = SlowDisk(), list[str]()
    writer = CheckpointWriter(
        tmp_path, trained(), disk, has_room=lambda: True, before_waiting=lambda: waits.append("waits")
    )
    writer.save(RunState(step=1))
    assert not waits
    disk.gate.set()
    writer.settle()
    assert waits == ["waits"]
