"""What stops one of two ranks stops both at one step, saved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.test_train import num_logged
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def ctrl_c(ranks: list[ForkedCommand]) -> None:
    """A terminal tells every process of the job, and so does a launcher, a moment later."""
    for _ in range(2):
        for rank in ranks:
            rank.send_signal(signal.SIGINT)
        time.sleep(0.2)


def stop_one(ranks: list[ForkedCommand]) -> None:
    ranks[1].send_signal(signal.SIGTERM)


def kill_a_worker_of_one(ranks: list[ForkedCommand]) -> None:
    children = Path(f"/proc/{ranks[1].pid}/task/{ranks[1].pid}/children").read_text().split()
    assert children
    os.kill(int(children[0]), signal.SIGKILL)


@pytest.mark.parametrize(("trouble", "status"), [(ctrl_c, 130), (stop_one, 75), (kill_a_worker_of_one, 2)])
def test_what_stops_one_rank_saves_one_step_in_all(
    trouble: Callable[[list[ForkedCommand]], None],
    status: int,
    words_for_tiny: tuple[str, ...],
    start_ranks: Callable[..., list[ForkedCommand]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    # An epoch that is not at its end soon: a worker that has done its part may die unseen.
    more = [
        "data.sources.mine.repeats=100",
        "data.num_workers=1",
        "train.max_steps=4000",
        "train.save_every=0",
        "parallel=zero2",
        f"out={folder}",
    ]
    ranks = start_ranks(2, ["train", *words_for_tiny, *more], tmp_path)
    deadline = time.monotonic() + 200
    while num_logged(folder) < 3:
        assert time.monotonic() < deadline and ranks[0].poll() is None, ranks[0].output
        time.sleep(0.05)
    trouble(ranks)
    assert [rank.wait(timeout=120) for rank in ranks] == [status, status], [rank.output for rank in ranks]
    saved = (folder / "checkpoints" / "last").read_text().strip()
    assert saved == f"step-{num_logged(folder):06d}"
    told = "".join(rank.output for rank in ranks)
    assert told.count(f"{saved} stands: run the same command again") in (1, 2) and "Traceback" not in told, told
