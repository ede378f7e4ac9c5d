"""A preparation takes as much memory of a large source as of a small one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def peaks(folder: Path, num_records: int) -> tuple[int, int]:
    """Largest resident memory in MiB of the main process and of a worker, each in a fresh process."""
    command = [sys.executable, "-m", "tests.peers.million_records", str(folder), "--records", str(num_records)]
    command += ["--rows-a-chunk", "2048"]
    told = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"status 0.*\n.*main process (\d+) MiB, largest worker (\d+) MiB", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    small, large = peaks(tmp_path / "small", 20_000), peaks(tmp_path / "large", 100_000)
    assert large[0] < 250 and large[1] < 250, (small, large)
    # The records that the larger one has more are 120 MB of text, half of it for each worker.
    assert large[0] - small[0] < 24 and large[1] - small[1] < 24, (small, large)
