"""A rank that stands still is named, with where it stands, and the run ends and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.distributed.conftest import launcher_of, wait_for_steps
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
SECONDS = 6


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes that a test stops: none is left behind."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def worker_of(rank: ForkedCommand) -> int:
    return int(Path(f"/proc/{rank.pid}/task/{rank.pid}/children").read_text().split()[0])


@pytest.mark.parametrize(
    ("victim", "teller", "told"),
    [
        (lambda ranks: ranks[1].pid, 0, "process 1 (pid {pid} on {host}) gives no sign of life for "),
        (lambda ranks: worker_of(ranks[1]), 0, "process 1 (pid {rank} on {host}) stands still for "),
        (lambda ranks: ranks[0].pid, 1, "the store that all processes met by does not answer (process 0, or the "),
    ],
    ids=["a rank", "the reader of a rank", "the first rank"],
)
def test_a_rank_that_stands_still_is_named(
    victim: Callable[[list[ForkedCommand]], int],
    teller: int,
    told: str,
    words_for_tiny: tuple[str, ...],
    start_ranks: Callable[..., list[ForkedCommand]],
    stopped: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    more = [
        *("data.sources.mine.repeats=100", "data.num_workers=1", "train.max_steps=4000", "train.save_every=2"),
        *(f"train.stall_seconds={SECONDS}", "parallel=ddp", f"out={folder}"),
    ]
    ranks = start_ranks(2, ["train", *words_for_tiny, *more], tmp_path)
    wait_for_steps(folder, 3, lambda: ranks[0].poll() is None)
    pid = victim(ranks)
    stopped.append(pid)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    assert ranks[teller].wait(timeout=120) == 1, ranks[teller].output
    assert time.monotonic() - began < 60
    line = [one for one in ranks[teller].output.splitlines() if one.startswith("llava-moe: ")]
    expected = told.format(pid=pid, rank=ranks[1].pid, host=os.uname().nodename)
    assert len(line) == 1 and f"llava-moe: {expected}" in line[0], ranks[teller].output
    assert "stands: run the same command again to go on from there" in line[0]
    if "stands still" in told:
        assert "in reading samples at step " in line[0] and ", samples mine/" in line[0] and ", at " in line[0]
        assert ranks[1].wait(timeout=60) == 1 and "llava-moe: " not in ranks[1].output


def test_a_first_rank_that_stands_still_under_torchrun_is_named_by_the_second(
    words_for_tiny: tuple[str, ...], stopped: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher keeps the store there: it answers on."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    more = ["data.sources.mine.repeats=100", "train.max_steps=4000", "parallel=ddp", f"out={folder}"]
    words = [*launcher_of("torchrun"), "train", *words_for_tiny, *more, f"train.stall_seconds={SECONDS}"]
    with (tmp_path / "told").open("w") as told:
        launcher = subprocess.Popen(words, cwd=tmp_path, stdout=told, stderr=told, env=os.environ)
    wait_for_steps(folder, 3, lambda: launcher.poll() is None)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (first,) = [int(one) for one in children if b"\0RANK=0\0" in Path(f"/proc/{one}/environ").read_bytes()]
    stopped.append(first)
    os.kill(first, signal.SIGSTOP)
    assert launcher.wait(timeout=150) != 0
    lines = [one for one in (tmp_path / "told").read_text().splitlines() if one.startswith("llava-moe: ")]
    assert len(lines) == 1 and f"process 0 (pid {first} on " in lines[0] and "gives no sign of life" in lines[0], lines
