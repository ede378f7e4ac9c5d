"""Who waits for another process is told for whom."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llava_moe.data.readers import waited_lock

HOLD = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print(1, flush=True)
sys.stdin.read()
"""


def test_a_wait_that_is_felt_names_the_process_and_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waited_lock, "_SECONDS_UNSAID", 0.1)
    place = tmp_path / "kept.arrow"
    command = [sys.executable, "-c", HOLD, f"{place}.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        threading.Timer(1.0, other.stdin.close).start()
        with waited_lock.waited_lock(place):
            told = capsys.readouterr().err
    assert told in (
        f"llava-moe: waiting for process {other.pid}, which is writing {place}\n",
        f"llava-moe: waiting for another process, which is writing {place}\n",
    )


def test_a_free_lock_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with waited_lock.waited_lock(tmp_path / "free"):
        pass
    assert not capsys.readouterr().err
