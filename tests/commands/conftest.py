"""What the tests of bad input share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llava_moe.cli import run


class Refusal:
    """Runs a command that the user must fix, and returns its one line."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *words: str, status: int = 2, notices: int = 0) -> str:
        """``notices``: lines that may stand before, of a stop that was heard."""
        self.capfd.readouterr()
        assert run([*words]) == status
        errors = self.capfd.readouterr().err.splitlines(keepends=True)
        assert all(line.startswith("llava-moe: ") for line in errors), errors
        assert 1 <= len(errors) <= 1 + notices, errors
        return errors[-1]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(capfd)


@pytest.fixture
def two_stages(tmp_path: Path) -> list[str]:
    """Words for an experiment of one's own with two stages."""
    (tmp_path / "own" / "exp").mkdir(parents=True)
    stages = [{"name": name, "overrides": ["exp=mix_general", "scale=demo"], "ignores": []} for name in ("1-a", "2-b")]
    (tmp_path / "own" / "exp" / "two.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"stages": stages}))
    return ["exp=two", "--config-dir", str(tmp_path / "own")]
