"""Checkpoints and stages are found by their names alone: nothing is loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.files.checkpoints import MARKER, checkpoint_of, newest_checkpoint, pointed_at, stage_folders, step_of


def checkpoint(run: Path, step: int, is_complete: bool = True) -> Path:
    path = checkpoint_of(run, step)
    path.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    if is_complete:
        (path / MARKER).touch()
    return path


def test_what_finds_them_imports_nothing_heavy() -> None:
    check = (
        "import sys, llava_moe.files.checkpoints, llava_moe.train.folder; "
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_newest_is_the_last_stages_and_one_that_is_not_whole_is_none(tmp_path: Path) -> None:
    newest = checkpoint(tmp_path / "10-instruct", 20)
    checkpoint(tmp_path / "10-instruct", 30, is_complete=False)
    first = checkpoint(tmp_path / "2-pretrain", 90)
    assert [path.name for path in stage_folders(tmp_path)] == ["2-pretrain", "10-instruct"]
    assert newest_checkpoint(tmp_path) == newest_checkpoint(tmp_path / "10-instruct") == newest
    assert newest_checkpoint(first) == first


def test_a_pointer_goes_before_the_numbers_unless_it_names_none_that_is_whole(tmp_path: Path) -> None:
    older, newer = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    last = tmp_path / "checkpoints" / "last"
    last.write_text(f"{older.name}\n")
    assert pointed_at(last) == older.name and newest_checkpoint(tmp_path) == older
    (older / MARKER).unlink()
    assert newest_checkpoint(tmp_path) == newer
    last.write_text("../../elsewhere\n")
    with pytest.raises(UserError, match="last is damaged"):
        newest_checkpoint(tmp_path)


def test_one_that_was_renamed_says_its_step_or_what_is_wrong(tmp_path: Path) -> None:
    renamed = checkpoint(tmp_path, 5).rename(tmp_path / "checkpoints" / "mine")
    (renamed / "state.json").write_text(json.dumps({"step": 5}))
    assert step_of(renamed) == 5
    (renamed / "state.json").write_text("{}")
    other = checkpoint(tmp_path, 4)
    with pytest.raises(UserError, match=rf"mine cannot be resumed .*delete it to go on from {other.name}"):
        step_of(renamed)
