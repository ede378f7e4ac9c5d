"""A run's folder: its files are its own."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llava_moe.errors import UserError
from llava_moe.files.checkpoints import checkpoint_of
from llava_moe.train.folder import (
    FolderLock,
    changed_lengths,
    changes_to_go_on,
    claim_configuration,
    flatten,
    is_finished,
    is_run_folder,
)
from llava_moe.train.state import RunState


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


CONFIG: dict[str, Any] = {
    "train": {"max_steps": None, "epochs": 2, "save_every": 10, "seed": 1},
    "data": {"root": "/data", "exif": "ignore", "alpha": "drop", "sources": {"docs": {"path": "a.json"}}},
    "log": {"tensorboard": False},
    "init_from": None,
}


def changed(**settings: Any) -> dict[str, Any]:
    """The configuration with other values, by dotted key with ``__`` for dots."""
    config = copy.deepcopy(CONFIG)
    for name, value in settings.items():
        *above, key = name.split("__")
        place = config
        for one in above:
            place = place[one]
        place[key] = value
    return config


def trained_run(folder: Path, step: int = 30, epoch: int = 1, epoch_step: int = 10) -> Path:
    """A run of ``CONFIG`` that has a checkpoint and is finished."""
    folder.mkdir()
    claim_configuration(folder, CONFIG, "first: text\n")
    checkpoint = checkpoint_of(folder, step)
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMPLETE").touch()
    RunState(step=step, epoch=epoch, epoch_step=epoch_step).write(checkpoint / "state.json")
    (folder / "log.jsonl").write_text('{"step": 1}\n')
    (folder / "finished.json").write_text("{}")
    return folder


def test_a_new_folder_takes_a_configuration_and_the_same_one_again(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    assert (run / "config.yaml").read_text() == "first: text\n"
    claim = claim_configuration(run, CONFIG, "first: text\n")
    assert not claim.lengths and not claim.places
    assert is_finished(run, CONFIG) and not changed_lengths(run, CONFIG)


def test_another_configuration_is_refused_with_the_key_and_both_values(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"differing: train.seed \(1 there, 7 asked\)\. .* Choose another folder"):
        claim_configuration(run, changed(train__seed=7), "other: text\n")
    assert (run / "config.yaml").read_text() == "first: text\n"
    assert not changes_to_go_on(run, changed(train__seed=7, train__epochs=3))


def test_what_changes_no_result_may_differ(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    claim_configuration(run, changed(train__save_every=1, log__tensorboard=True), "second: text\n")
    assert (run / "config.yaml").read_text() == "second: text\n" and (run / "finished.json").exists()


def test_a_folder_where_nothing_was_trained_is_free(tmp_path: Path) -> None:
    claim_configuration(tmp_path, CONFIG, "first: text\n")
    claim_configuration(tmp_path, changed(train__seed=7), "second: text\n")
    assert (tmp_path / "config.yaml").read_text() == "second: text\n"


def test_a_run_may_be_made_longer_and_is_then_no_longer_finished(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    longer = changed(train__epochs=3)
    claim = claim_configuration(run, longer, "longer: text\n")
    assert claim.lengths == {"train.epochs": (2, 3)} == changed_lengths(run, longer) == changes_to_go_on(run, longer)
    assert (run / "config.yaml").read_text() == "first: text\n", "until it is confirmed"
    assert not is_finished(run, longer) and is_finished(run, CONFIG)
    claim.confirm()
    assert (run / "config.yaml").read_text() == "longer: text\n" and not (run / "finished.json").exists()
    assert not changed_lengths(run, longer)


@pytest.mark.parametrize(
    ("settings", "is_less"),
    [
        ({"train__max_steps": 29}, True),
        ({"train__max_steps": 30}, False),
        ({"train__epochs": 1}, True),
        ({"train__epochs": 3}, False),
    ],
)
def test_a_length_that_is_less_than_what_was_trained_is_refused(
    settings: dict[str, int], is_less: bool, tmp_path: Path
) -> None:
    run = trained_run(tmp_path / "run")
    if is_less:
        ((name, value),) = settings.items()
        told = rf"has taken 30 steps \(epoch 1\), and {name.replace('__', '.')}={value} asks for fewer"
        with pytest.raises(UserError, match=told):
            claim_configuration(run, changed(**settings), "")
    else:
        assert claim_configuration(run, changed(**settings), "").lengths


def test_data_may_lie_elsewhere_for_a_run_that_recorded_what_it_holds(tmp_path: Path) -> None:
    run, moved = trained_run(tmp_path / "run"), changed(data__root="/elsewhere")
    with pytest.raises(UserError, match=r"data\.root"):
        claim_configuration(run, moved, "")
    (run / "environment.json").write_text('{"images": {"docs": "0a"}}')
    assert claim_configuration(run, moved, "").places == {"data.root": ("/data", "/elsewhere")}
    assert not is_finished(run, moved), "until what lies there was found to be the same"
    started = changed(init_from="/pretrained")
    with pytest.raises(UserError, match="init_from"):
        claim_configuration(run, started, "")


def test_settings_that_an_earlier_release_did_without_are_no_difference(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    kept = {key: value for key, value in flatten(CONFIG).items() if key not in ("data.exif", "data.alpha")}
    (run / ".config.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=r"data\.exif"):
        claim_configuration(run, changed(data__exif="apply"), "")
    claim_configuration(run, CONFIG, "today: text\n")
    assert (run / "config.yaml").read_text() == "today: text\n"


def test_a_damaged_record_of_the_configuration_is_told_in_one_line_that_names_it(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    (run / ".config.json").write_text('{"train.seed": ')
    with pytest.raises(UserError) as refused:
        claim_configuration(run, CONFIG, "")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{run / '.config.json'} is damaged (") and "put it back" in line


def test_nested_settings_become_dotted_keys_and_lists_and_empty_ones_stay() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": {}}) == {"a.b.c": 1, "a.d": [1, 2], "e": {}}


def test_a_copy_without_hidden_files_is_a_run_too(tmp_path: Path) -> None:
    assert not is_run_folder(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert not is_run_folder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert is_run_folder(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".lock").touch()
    assert is_run_folder(tmp_path / "other")


def test_a_second_process_is_kept_out_and_told_who_works_there(tmp_path: Path) -> None:
    def enter() -> int:
        """What a forked process exits with: 7 where it is kept out."""
        child = os.fork()
        if child == 0:
            try:
                with FolderLock(tmp_path / "run"):
                    os._exit(0)
            except UserError as error:
                os._exit(7 if f"is in use by process {os.getppid()}: wait for it" in str(error) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with FolderLock(tmp_path / "run"):
        assert enter() == 7
    assert enter() == 0
