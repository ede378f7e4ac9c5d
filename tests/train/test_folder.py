"""A run's folder: its files are its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.train.checkpoint import write_atomically
from llava_moe.train.folder import FolderLock


@pytest.mark.parametrize("name", [".lock", "log.jsonl", "config.yaml", "checkpoints/last"])
def test_a_link_in_a_runs_folder_is_not_written_through(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(outside)
    with pytest.raises(UserError, match=f"{name} is a link"), FolderLock(tmp_path / "run"):
        pass
    assert outside.read_text() == "precious"


def test_a_run_may_be_reached_by_a_link_and_keep_its_checkpoints_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "large" / "run").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large" / "run")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "checkpoints")
    with FolderLock(tmp_path / "run"):
        assert (tmp_path / "large" / "run" / ".lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("name", ["file", ".file.partial"])
def test_a_folder_in_the_place_of_a_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"cannot write .*file: a folder lies there"):
        write_atomically(tmp_path / "file", "text")
