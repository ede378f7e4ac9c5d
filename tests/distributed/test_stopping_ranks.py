"""What stops one of two ranks stops both at one step, saved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from llava_moe.errors import UserError
from llava_moe.run_config import ParallelConfig
from llava_moe.runs.processes import check_parallel
from tests.commands.test_train import num_logged
from tests.distributed.conftest import wait_for_steps
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
    wait_for_steps(folder, 3, lambda: ranks[0].poll() is None)
    trouble(ranks)
    assert [rank.wait(timeout=120) for rank in ranks] == [status, status], [rank.output for rank in ranks]
    saved = (folder / "checkpoints" / "last").read_text().strip()
    assert saved == f"step-{num_logged(folder):06d}"
    told = "".join(rank.output for rank in ranks)
    assert told.count(f"{saved} stands: run the same command again") in (1, 2) and "Traceback" not in told, told


@pytest.mark.parametrize("parallel", ["ddp", "zero2"])
def test_a_rank_that_is_killed_is_told_in_one_line_by_the_others_and_its_run_goes_on(
    parallel: str,
    words_for_tiny: tuple[str, ...],
    start_ranks: Callable[..., list[ForkedCommand]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    more = ["train.max_steps=40", "train.save_every=2", f"parallel={parallel}", f"out={folder}"]
    words = ["train", *words_for_tiny, *more]
    ranks = start_ranks(2, words, tmp_path)
    wait_for_steps(folder, 5, lambda: ranks[0].poll() is None)
    ranks[1].send_signal(signal.SIGKILL)
    assert ranks[0].wait(timeout=120) == 2, ranks[0].output
    told = ranks[0].output.rstrip().splitlines()[-1]
    assert "llava-moe: another process of this run is gone or does not answer: its own output says why" in told
    assert "stands: run the same command again" in told and "Traceback" not in ranks[0].output, ranks[0].output
    again = start_ranks(2, words, tmp_path)
    assert [rank.wait(timeout=200) for rank in again] == [0, 0], [rank.output for rank in again]
    assert "resuming at step" in again[0].output and num_logged(folder) == 40


@pytest.mark.parametrize("engine", ["local", "ddp"])
def test_settings_of_deepspeed_are_refused_where_it_does_not_run(engine: Literal["local", "ddp"]) -> None:
    settings: dict[str, Any] = {"offload_optimizer": True, "extra": {"communication_data_type": "fp32"}}
    for key, value in settings.items():
        with pytest.raises(UserError, match=rf"parallel.{key} is DeepSpeed's, and parallel.engine={engine} is not"):
            check_parallel(ParallelConfig(engine, **{key: value}))
    check_parallel(ParallelConfig(engine))
    check_parallel(ParallelConfig("deepspeed", 3, offload_optimizer=True, offload_parameters=True))
