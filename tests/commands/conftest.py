"""What the tests of bad input share."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from llava_moe.cli import run
from tests.conftest import Trained


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
def fresh(trained: Trained, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a trained run, nothing analyzed yet, under the same name each time."""

    def copy(adapter: str) -> Path:
        target = tmp_path / adapter
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(trained(adapter), target)
        return target

    return copy


@pytest.fixture
def two_stages(tmp_path: Path) -> list[str]:
    """Words for an experiment of one's own with two stages."""
    (tmp_path / "own" / "exp").mkdir(parents=True)
    stages = [{"name": name, "overrides": ["exp=mix_general", "scale=demo"], "ignores": []} for name in ("1-a", "2-b")]
    (tmp_path / "own" / "exp" / "two.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"stages": stages}))
    return ["exp=two", "--config-dir", str(tmp_path / "own")]


@pytest.fixture
def three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with three files of one's own (:func:`write_three_files`)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    write_three_files(tmp_path)
    return tmp_path


def write_three_files(folder: Path) -> None:
    """Three files of one's own, each in another format and with its pictures elsewhere."""
    charts, photos, scans = [], [], []
    for number in range(24):
        picture = Image.new("RGB", (9, 8), (10 * number, 60, 90))
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        for name in (f"pictures/charts/{number}.png", f"snaps/{number}.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encoded.getvalue())
        turns = [{"from": "human", "value": "<image>\nWhat colour is it?"}, {"from": "gpt", "value": "red"}]
        charts.append({"id": f"c{number}", "image": f"charts/{number}.png", "conversations": turns})
        asked = [{"type": "image_url", "image_url": {"url": f"{number}.png"}}, {"type": "text", "text": "Is it small?"}]
        photos.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "Yes"}]})
        # Each of its own bytes, so that none is a copy of a picture above.
        Image.new("RGB", (7, 7), (60, 10 * number, 90)).save(encoded, "PNG")
        scans.append({"image": {"bytes": encoded.getvalue(), "path": None}, "question": "red?", "answer": "No"})
    (folder / "charts.json").write_text(json.dumps(charts))
    (folder / "photos.jsonl").write_text("".join(json.dumps(one) + "\n" for one in photos))
    pq.write_table(pa.Table.from_pylist(scans), folder / "scans.parquet")
