"""Checkpoints are found and pruned by their numbers, and what somebody else put beside them stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llava_moe.adapters.methods.mole_experts import adapter_folder
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import MARKER, checkpoint_of, complete_checkpoints, last_checkpoint, step_of
from llava_moe.train.checkpoint_writer import CheckpointWriter
from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer import OptimizerSettings
from llava_moe.train.state import RunState

# As texts the third and fourth of them come before the first.
STEPS = (999_500, 999_999, 1_000_000, 10_000_000)


def save(run: Path, step: int, keep_last: int = 9) -> Path:
    model = nn.Linear(2, 2)
    group = SimpleNamespace(part="adapter", learning_rate=1e-3, parameters=dict(model.named_parameters()))
    engine = LocalEngine(model, [group], OptimizerSettings(), torch.device("cpu"))
    CheckpointWriter(run, engine, lambda *_: None, keep_last).save(RunState(step=step))
    return checkpoint_of(run, step)


def names_in(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())


def test_checkpoints_beyond_a_million_steps_are_the_newer_ones(tmp_path: Path) -> None:
    saved = [save(tmp_path, step) for step in STEPS]
    assert complete_checkpoints(tmp_path / "checkpoints") == saved
    (tmp_path / "checkpoints" / "last").unlink()
    assert last_checkpoint(tmp_path) == saved[-1]
    for path in saved:
        (path / "adapter").mkdir()
        (path / "adapter" / "adapter_config.json").write_text("{}")
    assert adapter_folder(tmp_path) == saved[-1] / "adapter"


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_the_oldest_of_them_are_pruned(tmp_path: Path, keep_last: int) -> None:
    for step in STEPS:
        save(tmp_path, step, keep_last)
    assert names_in(tmp_path) == sorted(f"step-{step}" for step in STEPS[-keep_last:])


def test_a_copy_that_somebody_keeps_beside_them_is_neither_taken_nor_pruned(tmp_path: Path) -> None:
    first = save(tmp_path, 5)
    for name in ("step-000005-good", "step-keep"):
        shutil.copytree(first, first.with_name(name))
    for step in (10, 15):
        save(tmp_path, step, keep_last=1)
    assert names_in(tmp_path) == ["step-000005-good", "step-000015", "step-keep"]
    (tmp_path / "checkpoints" / "last").unlink()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-000015"


def test_a_checkpoint_that_was_renamed_or_linked_tells_its_step_by_itself(tmp_path: Path) -> None:
    saved = save(tmp_path, 5)
    (tmp_path / "newest").symlink_to(saved)
    assert step_of(saved) == step_of(tmp_path / "newest") == 5
    renamed = saved.rename(tmp_path / "mine")
    assert (renamed / MARKER).is_file() and step_of(renamed) == 5
    (renamed / "state.json").unlink()
    with pytest.raises(UserError, match=r"mine.*state\.json"):
        step_of(renamed)


def test_a_kill_at_any_rename_leaves_a_whole_checkpoint_to_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, num_kills = os.replace, 0
    for killed_at in range(1, 5):
        run, calls = tmp_path / str(killed_at), iter(range(1, 99))
        run.mkdir()
        save(run, 5)

        def replace(source: str, target: str, killed_at: int = killed_at, calls: Iterator[int] = calls) -> None:
            if next(calls) == killed_at:
                raise KeyboardInterrupt
            rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                save(run, 5)
            except KeyboardInterrupt:
                num_kills += 1
        found = last_checkpoint(run)
        assert found is not None and step_of(found) == 5 and (found / "state.json").is_file(), killed_at
        save(run, 10, keep_last=1)
        assert names_in(run) == ["step-000010"]
    assert num_kills == 3, "set aside, put in place, named as the last"
