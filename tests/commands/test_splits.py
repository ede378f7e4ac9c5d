"""A folder with splits through the real commands: train alone is read, and a line names the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.cli import run

LINE = "mine: train is read, not test (1 records), val (2 records): data.sources.mine.split=NAME reads another"


@pytest.fixture
def splits(tiny_words: list[str], tmp_path: Path) -> list[str]:
    folder = tmp_path / "splits"
    folder.mkdir()
    for split, count in (("train", 5), ("validation", 2), ("test", 1)):
        turns = [{"from": "human", "value": f"what {split} ?"}, {"from": "gpt", "value": "so"}]
        rows = [json.dumps({"id": f"{split}{n}", "conversations": turns}) for n in range(count)]
        (folder / f"{split}-00000.jsonl").write_text("\n".join(rows))
    kept = [word for word in tiny_words if not word.startswith(("path=", "images="))]
    return [*kept, f"path={folder}", f"out={tmp_path / 'out'}"]


@pytest.mark.parametrize(
    "command", [["train"], ["plan"], ["data", "check"], ["data", "stats"], ["data", "preview"]], ids=" ".join
)
def test_the_splits_that_are_not_read_are_named_in_one_line(
    command: list[str], splits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, *splits]) == 0
    told = capsys.readouterr().out
    assert LINE in told and told.count("train is read") == 1
    assert run([*command, *splits[:-1], f"{splits[-1]}-val", "data.sources.mine.split=valid"]) == 0
    assert "train is read" not in capsys.readouterr().out


def test_a_misspelt_split_is_one_line_with_those_there(splits: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train"], ["plan"], ["data", "check"]):
        assert run([*command, *splits, "data.sources.mine.split=vall"]) == 2
        line = capsys.readouterr().err
        assert "no record of split 'vall'" in line and '["test", "train", "val"]' in line and line.count("\n") == 1
