"""Two processes that share the records of an instrument write the bytes of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_moe.cli import run
from tests.conftest import Trained
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

StartRanks = Callable[..., list[ForkedCommand]]

INTERFERENCE = (*("interference", "samples=9", "exact_samples=8", "resamples=200", "num_threads=1"),)


@pytest.mark.parametrize(("adapter", "exact"), [("llava_mole", "[all,side]"), ("mixlora", "[side]")])
def test_two_ranks_write_the_bytes_of_one(
    trained: Trained, start_ranks: StartRanks, tmp_path: Path, adapter: str, exact: str
) -> None:
    one, two = tmp_path / "one" / adapter, tmp_path / "two" / adapter
    for folder in (one, two):
        shutil.copytree(trained(adapter), folder)
    words = ["analyze", *INTERFERENCE, f"exact={exact}"]
    assert run([*words, f"run={one}"]) == 0
    processes = start_ranks(2, [*words, f"run={two}"])
    statuses = [process.wait(timeout=420) for process in processes]
    assert not any(statuses), [process.output[-4000:] for process in processes]
    names = sorted(path.name for path in (one / "analyze").iterdir() if path.is_file())
    assert names == [f"interference.{kind}" for kind in ("csv", "html", "json", "svg")]
    for name in names:
        assert (one / "analyze" / name).read_bytes() == (two / "analyze" / name).read_bytes(), name


def test_a_refusal_is_told_once_and_ends_all_ranks(trained: Trained, start_ranks: StartRanks) -> None:
    words = ["analyze", "interference", f"run={trained('lora')}", "num_threads=1", "split=train"]
    processes = start_ranks(2, words)
    assert [process.wait(timeout=420) for process in processes] == [2, 2]
    told = [line for process in processes for line in process.output.splitlines() if "was trained on it" in line]
    assert len(told) == 1
