"""Hostile input of six families finds nothing: no traceback, no hang, no flood of memory, nothing written elsewhere.

See "Fuzzing" in docs/fuzzing.md for what the variables ``FUZZ_MINUTES``, ``FUZZ_SEED``, ``FUZZ_FAMILIES``, ``FUZZ_OUT``
and ``FUZZ_CASE`` are for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import FAMILIES
from tests.fuzz.case import DEFAULT_SEED

ROOT = Path(__file__).resolve().parents[2]
SECONDS_A_FAMILY = 4.0
MINUTES = os.environ.get("FUZZ_MINUTES")


def fuzz(*words: str) -> tuple[int, str]:
    """Run the harness in a process that loads everything once; its progress goes where pytest's own output goes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((os.environ.get("FUZZ_PACKAGE", str(ROOT)), str(ROOT)))}
    command = [sys.executable, "-P", "-m", "tests.fuzz", *words]
    ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    return ended.returncode, ended.stdout


@pytest.mark.timeout(600 + 90 * float(MINUTES or 1))
def test_hostile_input_of_every_family_finds_nothing(tmp_path: Path) -> None:
    folder = Path(os.environ.get("FUZZ_OUT", tmp_path))
    if case := os.environ.get("FUZZ_CASE"):
        status, told = fuzz(case, str(folder))
    else:
        chosen = os.environ.get("FUZZ_FAMILIES", "all")
        num_families = len(FAMILIES) if chosen == "all" else len(chosen.split(","))
        seconds = SECONDS_A_FAMILY if MINUTES is None else float(MINUTES) * 60 / num_families
        status, told = fuzz(chosen, str(seconds), str(folder), os.environ.get("FUZZ_SEED", str(DEFAULT_SEED)))
    assert status == 0, f"\n{told}"
