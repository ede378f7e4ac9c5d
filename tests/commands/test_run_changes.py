"""A run goes on at another length, and on data or a base that was moved; what else differs is refused."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from PIL import Image

from llava_moe.cli import run
from llava_moe.train.schedule import Schedule
from tests.commands.conftest import Refusal
from tests.commands.test_rates import stop_after
from tests.commands.test_train import assert_same_run, losses_of, records_of
from tests.data.readers.raw import write_raw
from tests.forked_commands import CommandServer

CHEAP = ("adapter=lora", "train.save_every=2", "adapter.lora_dropout=0.1")


def rates_of(folder: Path) -> list[float]:
    return [record["learning_rate"] for record in records_of(folder)]


def test_a_finished_run_goes_on_to_more_steps_with_the_longer_runs_samples_and_rates(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer, capfd: pytest.CaptureFixture[str]
) -> None:
    words, long = [*tiny_words, *CHEAP], ["train.max_steps=12"]
    grown, whole, broken = (tmp_path / name for name in ("grown", "whole", "broken"))
    assert run(["train", *words, f"out={grown}"]) == 0
    first = rates_of(grown)
    shutil.copytree(grown, broken)
    capfd.readouterr()
    assert run(["train", *words, *long, f"out={grown}"]) == 0
    told = capfd.readouterr().out
    assert "train.max_steps 6 -> 12; from here on its rates are those of a run of 12 steps" in told
    assert "was finished before" not in told
    assert run(["train", *words, *long, f"out={whole}"]) == 0
    ours, theirs = records_of(grown), records_of(whole)
    assert [record["sample_hash"] for record in ours] == [record["sample_hash"] for record in theirs]
    assert rates_of(grown) == first + rates_of(whole)[6:]
    assert rates_of(whole)[6] == pytest.approx(1e-3 * Schedule(12).factor(6))
    assert yaml.safe_load((grown / "config.yaml").read_text())["train"]["max_steps"] == 12
    environment = json.loads((grown / "environment.json").read_text())
    assert environment["lengthened"] == [{"step": 6, "train.max_steps": [6, 12]}]
    # What follows is as exact as any run: killed and started again it equals what was never stopped.
    stop_after(9, [*words, *long], broken, command_server)
    assert run(["train", *words, *long, f"out={broken}"]) == 0
    assert_same_run(grown, broken)
    assert json.loads((broken / "environment.json").read_text())["lengthened"] == environment["lengthened"]
    assert run(["train", *words, *long, f"out={grown}"]) == 0
    assert "was finished before" in capfd.readouterr().out


def test_where_the_rates_are_the_same_a_run_made_longer_equals_the_long_one(
    tiny_words: list[str], tmp_path: Path, command_server: CommandServer
) -> None:
    # Both lengths have rate 0 in the first step, so that a run stopped there has lost nothing.
    words = [*tiny_words, *CHEAP, "train.save_every=1", "train.warmup_ratio=0.01"]
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    stop_after(1, [*words, "train.max_steps=90"], grown, command_server)
    for checkpoint in sorted((grown / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(checkpoint)
    (grown / "checkpoints" / "last").write_text("step-000001\n")
    for folder in (grown, whole):
        assert run(["train", *words, "train.max_steps=8", f"out={folder}"]) == 0
    assert rates_of(whole)[0] == 0
    assert_same_run(grown, whole)


def test_more_epochs_go_on_and_fewer_steps_than_were_taken_are_refused(
    tiny_words: list[str], tmp_path: Path, refused: Refusal
) -> None:
    folder = tmp_path / "run"
    words = [*tiny_words, *CHEAP, "train.max_steps=null", f"out={folder}"]
    assert run(["train", *words, "train.global_batch_size=16"]) == 0
    assert len(records_of(folder)) == 3
    assert run(["train", *words, "train.global_batch_size=16", "train.epochs=2"]) == 0
    assert [record["epoch"] for record in records_of(folder)] == [0, 0, 0, 1, 1, 1]
    before = (folder / "config.yaml").read_bytes()
    for fewer in ("train.epochs=1", "train.max_steps=5"):
        line = refused("train", *words, "train.global_batch_size=16", fewer)
        assert "has taken 6 steps" in line and fewer in line, line
    assert (folder / "config.yaml").read_bytes() == before and (folder / "finished.json").is_file()


def test_other_settings_are_refused_with_a_command_that_runs_as_printed(
    tiny_words: list[str], tmp_path: Path, refused: Refusal
) -> None:
    words = [*tiny_words, *CHEAP, f"out={tmp_path / 'my run'}"]
    assert run(["train", *words, "train.max_steps=1"]) == 0
    line = refused("train", *words, "train.max_steps=1", "seed=5", "adapter.r=4")
    assert "seed (0 there, 5 asked)" in line and "adapter.r (" in line
    command = shlex.split(line.rpartition("a folder of its own: ")[2])
    assert command[:2] == ["llava-moe", "train"] and command[-1] == f"out={tmp_path / 'my run-2'}"
    assert run(command[1:]) == 0
    assert (tmp_path / "my run-2" / "finished.json").is_file()


def moved(words: Sequence[str], data: Path) -> list[str]:
    kept = [word for word in words if not word.startswith(("path=", "images="))]
    return [*kept, f"path={data / 'train.json'}", f"images={data}"]


def test_data_that_was_moved_goes_on_and_other_images_of_the_same_names_do_not(
    tiny_words: list[str],
    own_data: Path,
    tmp_path: Path,
    command_server: CommandServer,
    refused: Refusal,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words, whole, broken = [*tiny_words, *CHEAP], tmp_path / "whole", tmp_path / "broken"
    assert run(["train", *words, f"out={whole}"]) == 0
    stop_after(3, words, broken, command_server)
    elsewhere, others = tmp_path / "moved", tmp_path / "others"
    for folder in (elsewhere, others):
        shutil.copytree(own_data, folder)
    for image in others.glob("*.png"):
        Image.new("RGB", (20, 20)).save(image)
    config = (broken / "config.yaml").read_bytes()
    assert "image files in" in refused("train", *moved(words, others), f"out={broken}")
    assert (broken / "config.yaml").read_bytes() == config
    capfd.readouterr()
    assert run(["train", *moved(words, elsewhere), f"out={broken}"]) == 0
    told = capfd.readouterr().out
    assert "moved, with the same content: " in told and f"images {own_data} -> {elsewhere}" in told
    assert "data.sources" not in told
    assert_same_run(whole, broken)
    # A finished run is told the new place too, so that what reads its data finds them.
    assert run(["train", *moved(words, elsewhere), f"out={whole}"]) == 0
    assert yaml.safe_load((whole / "config.yaml").read_text())["images"] == str(elsewhere)
    assert "image files in" in refused("train", *moved(words, others), f"out={whole}")
    changed = json.loads((others / "train.json").read_text())[1:]
    (others / "train.json").write_text(json.dumps(changed))
    assert "has changed since" in refused("train", *moved(words, others), f"out={whole}")
    assert losses_of(whole) == losses_of(broken)


def test_a_run_of_an_earlier_release_that_recorded_no_images_does_not_move(
    tiny_words: list[str], own_data: Path, tmp_path: Path, refused: Refusal
) -> None:
    folder = tmp_path / "run"
    words = [*tiny_words, *CHEAP, "train.max_steps=1", f"out={folder}"]
    assert run(["train", *words]) == 0
    environment = json.loads((folder / "environment.json").read_text())
    del environment["images"]
    (folder / "environment.json").write_text(json.dumps(environment))
    shutil.copytree(own_data, tmp_path / "moved")
    assert "images (" in refused("train", *moved(words, tmp_path / "moved"))
    assert run(["train", *words, "train.max_steps=2"]) == 0


def test_what_a_run_was_started_from_may_move_and_may_not_change(
    tiny_words: list[str], tmp_path: Path, refused: Refusal
) -> None:
    start, folder = tmp_path / "start", tmp_path / "run"
    assert run(["train", *tiny_words, "adapter=none", "train.max_steps=2", f"out={start}"]) == 0
    words = [*tiny_words, *CHEAP, "~stage.learning_rates.projector", f"out={folder}"]
    assert run(["train", *words, "train.max_steps=2", f"init_from={start}"]) == 0
    assert "init_from (" in refused("train", *words, "train.max_steps=3")
    start.rename(tmp_path / "elsewhere")
    assert run(["train", *words, "train.max_steps=3", f"init_from={tmp_path / 'elsewhere'}"]) == 0
    assert run(["train", *tiny_words, "adapter=none", "train.max_steps=4", f"out={tmp_path / 'elsewhere'}"]) == 0
    line = refused("train", *words, "train.max_steps=4", f"init_from={tmp_path / 'elsewhere'}")
    assert "started from another" in line


def test_of_an_experiments_stages_the_last_alone_is_made_longer_by_the_command_that_is_printed(
    tiny_words: list[str], two_stages: list[str], tmp_path: Path, refused: Refusal
) -> None:
    words = [*two_stages, *tiny_words[2:], *CHEAP, f"out={tmp_path / 'run'}"]
    assert run(["train", *words, "train.max_steps=2"]) == 0
    line = refused("train", *words, "train.max_steps=4")
    assert "1-a would be longer (train.max_steps 2 -> 4), and 2-b began from it" in line
    command = shlex.split(line.rpartition("the last stage alone: ")[2])
    assert run(command[1:]) == 0
    assert [len(records_of(tmp_path / "run" / stage)) for stage in ("1-a", "2-b")] == [2, 4]


def test_a_base_that_was_moved_is_told_to_the_run_by_the_command_that_is_printed(
    tiny_words: list[str], tmp_path: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in tiny_words if not word.startswith("model")]
    here, there = tmp_path / "a base", tmp_path / "elsewhere"
    assert run(["train", *tiny_words, *CHEAP, "train.max_steps=1", f"out={tmp_path / 'first'}"]) == 0
    assert run(["export", f"run={tmp_path / 'first'}", "to=hf", f"out={here}"]) == 0
    folder = tmp_path / "run"
    assert run(["train", *words, *CHEAP, "train.max_steps=2", f"model.path={here}", f"out={folder}"]) == 0
    here.rename(there)
    for command in (["chat", f"run={folder}", "prompt=a"], ["export", f"run={folder}", "to=hf", "out=exported"]):
        line = refused(*command)
        assert "no such folder" in line
    told = shlex.split(line.rpartition("tell the run: ")[2])
    assert told[-2:] == ["model.path=FOLDER", f"out={folder}"]
    assert run([word.replace("FOLDER", str(there)) for word in told[1:]]) == 0
    assert run(["chat", f"run={folder}", "prompt=a"]) == 0
    assert len(records_of(folder)) == 2


def test_a_longer_run_without_a_folder_of_its_own_names_the_run_that_it_could_go_on_with(
    tiny_words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_words, *CHEAP]
    for other in ("train.max_steps=1", "seed=3"):
        assert run(["train", *words, other]) == 0
    (short,) = (tmp_path / "runs").glob("mix_general-*/checkpoints/step-000001")
    folder = short.parent.parent.relative_to(tmp_path)
    damaged = tmp_path / "runs" / "mix_general-damaged"
    shutil.copytree(folder, damaged)
    (damaged / ".config.json").write_text("{")
    capfd.readouterr()
    assert run(["train", *words, "train.max_steps=2"]) == 0
    told = capfd.readouterr().out
    assert f"(train.max_steps 1 -> 2): add out={folder} to go on with it" in told
    assert told.count("to go on with it") == 1
    assert run(["train", *words, "train.max_steps=2", f"out={folder}"]) == 0
    assert len(records_of(tmp_path / folder)) == 2


@pytest.mark.parametrize("name", ["pathvqa", "llava_med_alignment"])
def test_a_prepared_folder_that_was_moved_goes_on(name: str, tiny_words: list[str], tmp_path: Path) -> None:
    raw = write_raw(name, tmp_path / "raw")
    asked = ["data", "prepare", f"recipe={name}", f"downloads={raw.folder}", f"out={tmp_path / 'data'}"]
    assert run([*asked, "num_processes=1"]) == 0
    kept = [word for word in tiny_words if not word.startswith(("path=", "images=", "train.tokens", "train.max_l"))]
    words = [*kept, *CHEAP, "data.max_bad_share=1.0", "train.tokens_per_micro_batch=512", "train.max_length=512"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    place = tmp_path / "data" / name
    for out, steps in ((whole, 3), (folder, 2)):
        assert run(["train", *words, f"path={place}", f"train.max_steps={steps}", f"out={out}"]) == 0
    place.rename(tmp_path / "moved")
    assert run(["train", *words, f"path={tmp_path / 'moved'}", "train.max_steps=3", f"out={folder}"]) == 0
    assert [step[:2] for step in losses_of(folder)] == [step[:2] for step in losses_of(whole)]
