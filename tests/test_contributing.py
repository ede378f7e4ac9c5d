"""The pages for contributors work when they are followed, to the letter."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A package of one's own changes nothing of ours: tests/contract/test_outside_package.py installs it.
PAGES = sorted(page for page in (ROOT / "docs" / "contributing").glob("*.md") if page.stem != "a_package")
HEADS = {"python": r"# (\S+)\n", "yaml": r"# (\S+)\n", "html": r"\{# (\S+) #\}\n"}
FOLLOW = """
import pytest, sys
from llava_moe.cli import run
for words in {tests!r}:
    assert pytest.main(["-q", "-p", "no:cacheprovider", *words]) == 0, words
for words in {commands!r}:
    assert run(words) == 0, words
"""


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL)


def follow(page: str, checkout: Path) -> None:
    """Write the files that a page shows, and change those that it changes."""
    for kind, head in HEADS.items():
        for block in blocks(page, kind):
            named = re.match(head, block)
            assert named is not None, block[:80]
            path = checkout / named[1]
            assert not path.exists(), f"{named[1]} is there already"
            path.write_text(block.removeprefix(named[0]), encoding="utf-8")
    for change in blocks(page, "diff"):
        done = subprocess.run(["git", "apply", "-"], input=change, cwd=checkout, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def told(page: str) -> tuple[list[list[str]], list[list[str]]]:
    """The tests that a page runs, and its commands, which are composed and not run."""
    lines = [shlex.split(line) for block in blocks(page, "bash") for line in block.splitlines()]
    tests = [words[3:] for words in lines if words[:3] == ["python", "-m", "pytest"]]
    commands = [words[1:] for words in lines if words[0] == "llava-moe"]
    assert len(tests) + len(commands) == len(lines)
    return tests, [words if words[0] == "ls" else [*words, "--cfg", "job"] for words in commands]


@pytest.mark.slow
def test_what_is_added_as_its_page_says_works(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("llava_moe", "configs", "tests", "tools"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    tests, commands = [], []
    assert {page.stem for page in PAGES} == {
        *("an_adapter", "a_format", "a_benchmark", "an_instrument", "a_command", "a_family")
    }
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        follow(page, checkout)
        more_tests, more_commands = told(page)
        assert more_tests and more_commands, path.name
        tests += more_tests
        commands += more_commands
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW.format(tests=tests, commands=commands)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "LLAVA_MOE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "counting" in done.stdout and "llava_moe.adapters.Sora" in done.stdout
