"""Two real processes (gloo on CPU) measure the transfer that one process measures, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_moe.cli import run
from tests.conftest import Trained
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_two_processes_give_the_bytes_of_one(
    trained: Trained, start_ranks: Callable[..., list[ForkedCommand]], tmp_path: Path
) -> None:
    folders = [shutil.copytree(trained("llava_mole"), tmp_path / place / "run") for place in ("one", "two")]
    words = ("samples=8", "steps=2", "seeds=[0,1]", "resamples=100", "num_threads=1")
    assert run(["analyze", "transfer", f"run={folders[0]}", *words]) == 0
    processes = start_ranks(2, ["analyze", "transfer", f"run={folders[1]}", *words], tmp_path)
    assert not any([process.wait(timeout=420) for process in processes]), [one.output[-4000:] for one in processes]
    for kind in ("json", "csv", "svg", "html"):
        one, two = ((folder / "analyze" / f"transfer.{kind}").read_bytes() for folder in folders)
        assert one == two, kind
