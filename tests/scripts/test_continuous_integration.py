"""What continuous integration runs fails where the tests fail and where the linters do, and shows what both said."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands in for make: the linters take their time, so that they end after the tests.
MAKE = """#!/bin/bash
echo "make $1" >> started
[ "$1" = lint ] && sleep 0.1
echo "said by $1"
[ "$1" != "$FAILS" ]
"""


@pytest.mark.parametrize("fails", ["", ".venv/.dev", "test", "lint"])
def test_a_run_fails_where_any_part_of_it_fails(fails: str, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text(MAKE)
    (tmp_path / "bin" / "make").chmod(0o755)
    told = {key: value for key, value in os.environ.items() if key != "VENV"}
    told |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "FAILS": fails, "TMPDIR": str(tmp_path / "bin")}
    ended = subprocess.run([tmp_path / ".ci" / "run"], env=told, capture_output=True, text=True, timeout=60)
    assert (ended.returncode != 0) == bool(fails), ended
    parts = [".venv/.dev"] if fails == ".venv/.dev" else [".venv/.dev", "lint", "test"]
    assert sorted((tmp_path / "started").read_text().splitlines()) == [f"make {part}" for part in parts]
    assert sorted(ended.stdout.splitlines()) == [f"said by {part}" for part in parts]
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["make"]
