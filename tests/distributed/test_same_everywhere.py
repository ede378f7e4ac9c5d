"""Processes that were started unlike each other are refused in one line of one rank, before step 1."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.distributed.conftest import start_two
from tests.forked_commands import CommandServer

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
Servers = tuple[CommandServer, CommandServer]


@pytest.fixture
def words(tiny_words: list[str]) -> list[str]:
    return ["train", *tiny_words, "parallel=ddp", "train.max_steps=2"]


def refused(servers: Servers, words: Sequence[Sequence[str]], folders: Sequence[Path]) -> str:
    """The line of rank 0, where rank 1 has nothing to say and nothing was trained."""
    ranks = start_two(servers, words, folders)
    assert [rank.wait(timeout=120) for rank in ranks] == [2, 2], [rank.output + rank.errors for rank in ranks]
    assert not [line for line in ranks[1].errors.splitlines() if "llava-moe:" in line], ranks[1].errors
    assert not [*folders[0].glob("**/step-*"), *folders[0].glob("**/.meeting-*")]
    told = [line for line in ranks[0].errors.splitlines() if line.startswith("llava-moe:")]
    assert len(told) == 1 and "Traceback" not in ranks[0].errors, ranks[0].errors
    return told[0]


def test_other_words_are_named_with_their_key(rank_servers: Servers, words: list[str], tmp_path: Path) -> None:
    other = [*words, "stage.learning_rates.adapter=3e-4"]
    told = refused(rank_servers, [[*words, "out=run"], [*other, "out=run"]], [tmp_path, tmp_path])
    assert "process 1 (on " in told and "differs from process 0 in stage.learning_rates.adapter: 0.0003 and " in told
    assert "start all processes with the same words" in told


def test_a_folder_that_is_another_one_elsewhere_is_named(
    rank_servers: Servers, words: list[str], tmp_path: Path
) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    told = refused(rank_servers, [[*words, "out=run"]] * 2, folders)
    assert "out=run is not one folder for all processes: " in told and f"({folders[1] / 'run'})" in told
    assert not (folders[1] / "run").exists()


@pytest.mark.parametrize("what", ["records", "images"])
def test_other_data_are_named_with_their_source(
    what: str, rank_servers: Servers, words: list[str], own_data: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        shutil.copytree(own_data, folder / "data")
    if what == "records":
        records = json.loads((folders[1] / "data" / "train.json").read_text())
        records[0]["conversations"][1]["value"] = "another answer"
        (folders[1] / "data" / "train.json").write_text(json.dumps(records))
    else:
        pictures = sorted(path for path in (folders[1] / "data").rglob("*") if path.suffix in (".png", ".jpg"))
        for picture in pictures[1:]:
            shutil.copyfile(pictures[0], picture)
    kept = [word for word in words if not word.startswith(("path=", "images="))]
    run = [f"out={tmp_path / 'run'}", "path=data/train.json", "images=data"]
    told = refused(rank_servers, [[*kept, *run]] * 2, folders)
    assert f"process 1 (on {os.uname().nodename}) differs from process 0 in the {what} of mine: " in told
    assert told.endswith("give all machines the same files")
