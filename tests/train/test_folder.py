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


def refuse(
    folder: Path, only_looks: bool = False, writes: tuple[str, ...] = ("config.yaml",), told: str = "bad"
) -> None:
    with pytest.raises(UserError, match="bad"), FolderLock(folder, only_looks):
        for name in writes:
            (folder / name).write_text("{}\n")
        (folder / "wandb").mkdir(exist_ok=True)
        raise UserError(told)


def test_a_start_that_is_refused_before_its_first_step_leaves_no_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "runs" / "demo" / "1-pretrain")
    assert not [*tmp_path.iterdir()], "nor the folders above it"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "plan.json").write_text("{}")
    refuse(tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["plan.json"], "what was there before stays"
    with FolderLock(tmp_path / "looked", only_looks=True):
        (tmp_path / "looked" / "quarantine.jsonl").write_text("{}\n")
    assert not (tmp_path / "looked").exists()


def test_the_list_of_bad_records_stays_where_the_message_names_it(tmp_path: Path) -> None:
    written = ("config.yaml", "quarantine.jsonl")
    for only_looks in (False, True):
        refuse(tmp_path / "other", only_looks, written)
        assert not [*tmp_path.iterdir()]
    refuse(tmp_path / "run", False, written, f"bad; see {tmp_path / 'run' / 'quarantine.jsonl'}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["quarantine.jsonl"]


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoints/step-000001/COMPLETE"])
def test_a_run_that_took_a_step_or_was_there_before_keeps_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "step-000001").mkdir(parents=True)
    refuse(tmp_path / "run", writes=("config.yaml", name))
    assert (tmp_path / "run" / "config.yaml").is_file() and (tmp_path / "run" / name).is_file()
    (tmp_path / "run" / name).unlink()
    refuse(tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").is_file(), "it was begun by another start"


def test_a_start_that_is_interrupted_or_fails_by_our_fault_keeps_its_folder(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), FolderLock(tmp_path / error.__name__):
            raise error
        assert (tmp_path / error.__name__ / ".lock").is_file()
