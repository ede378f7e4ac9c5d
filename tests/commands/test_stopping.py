"""Whatever ends a training, the last whole step is saved, nothing is promised that is not there, and it goes on."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlavaForConditionalGeneration

from llava_moe.assemble import new_model
from llava_moe.cli import run
from llava_moe.commands import eval as eval_command
from llava_moe.data import encode
from llava_moe.data.images.transform import read_image
from llava_moe.data.quarantine import Quarantine
from llava_moe.data.stream import StepStream
from llava_moe.errors import UserError
from llava_moe.runs import stage
from llava_moe.runs.stage_validation import StageValidation
from llava_moe.train.checkpoint_writer import CheckpointWriter
from llava_moe.train.engine import LocalEngine
from llava_moe.train.log import JsonLines
from tests.commands.test_train import assert_same_run, records_of

Refused = Callable[..., str]
STEPS = 6
# Dropout draws random numbers, and eval.every measures: neither may notice that a run was stopped.
LIKE_A_REAL_RUN = (
    *("adapter.lora_dropout=0.2", "data.held_out=0.3", "eval.every=3", "train.save_every=0"),
    *(f"train.max_steps={STEPS}", "data.num_workers=1"),
)


class AtCall:
    """Does something at one call of a function, before it."""

    def __init__(self, number: int, do: Callable[[], None]) -> None:
        self.left, self.do = number, do

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.do()
            return function(*arguments, **named)

        return wrapped


def ask_to_stop(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def last_name(folder: Path) -> str:
    return (folder / "checkpoints" / "last").read_text().strip()


@pytest.fixture(scope="module")
def unbroken(
    words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[str]]]:
    """A run that nothing stopped, and its words."""
    place = tmp_path_factory.mktemp("unbroken")
    words = ["train", *words_for_tiny, *LIKE_A_REAL_RUN]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(place / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(place)
        assert run([*words, f"out={place / 'run'}"]) == 0
        yield place / "run", words


# Where a signal may come: between the parts of a step, while its checkpoint is written, while it is measured.
@pytest.mark.parametrize(
    ("number", "owner", "name", "call", "step"),
    [
        (signal.SIGINT, LlavaForConditionalGeneration, "forward", 2, 2),
        (signal.SIGTERM, LlavaForConditionalGeneration, "forward", 2, 2),
        (signal.SIGINT, LocalEngine, "step", 4, 4),
        (signal.SIGINT, StageValidation, "measure", 1, 3),
        (signal.SIGTERM, StageValidation, "measure", 2, STEPS),
        (signal.SIGINT, CheckpointWriter, "save", 1, STEPS),
    ],
)
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on_as_if_never_stopped(
    number: signal.Signals,
    owner: object,
    name: str,
    call: int,
    step: int,
    unbroken: tuple[Path, list[str]],
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, words = unbroken
    folder = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, AtCall(call, ask_to_stop(number)).over(getattr(owner, name)))
        told = refused(*words, f"out={folder}", status=130 if number == signal.SIGINT else 75, notices=1)
    assert signal.getsignal(number) == before
    assert last_name(folder) == f"step-{step:06d}"
    assert f"step-{step:06d} stands" in told and "run the same command again to go on" in told
    assert run([*words, f"out={folder}"]) == 0
    assert_same_run(straight, folder)


# What ends a training in the midst of step 4 or behind it, and the last step whose update is whole then.
@pytest.mark.parametrize(
    ("owner", "name", "call", "error", "step", "told"),
    [
        (StepStream, "_assemble", 4, UserError("its file changed while training"), 3, "its file changed"),
        (
            LlavaForConditionalGeneration,
            "forward",
            6,
            torch.OutOfMemoryError("CUDA out of memory"),
            None,
            "out of memory",
        ),
        (JsonLines, "catch_up", 2, UserError("cannot write"), 2, "cannot write"),
        (JsonLines, "catch_up", 2, OSError(5, "Input/output error"), 2, "Input/output error"),
        (Quarantine, "add", 5, UserError("records are bad"), 3, "records are bad"),
        (StageValidation, "measure", 1, UserError("a benchmark's image is gone"), 3, "image is gone"),
    ],
)
def test_an_error_while_training_saves_the_last_whole_step_and_the_run_goes_on_as_if_never_stopped(
    owner: object,
    name: str,
    call: int,
    error: Exception,
    step: int | None,
    told: str,
    unbroken: tuple[Path, list[str]],
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, words = unbroken
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, AtCall(call, fail_with(error)).over(getattr(owner, name)))
        line = refused(*words, f"out={folder}")
    assert told in line and f"{last_name(folder)} stands" in line
    if step is not None:
        assert last_name(folder) == f"step-{step:06d}"
    assert run([*words, f"out={folder}"]) == 0
    assert_same_run(straight, folder)


def test_a_data_worker_that_is_killed_is_told_and_the_last_whole_step_is_saved(
    unbroken: tuple[Path, list[str]], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, words = unbroken
    folder, killed = tmp_path / "run", tmp_path / "killed"

    def die_once_steps_are_logged(*arguments: Any, **named: Any) -> Any:
        if (folder / "log.jsonl").exists() and len(records_of(folder)) >= 2 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(*arguments, **named)

    monkeypatch.setattr(encode, "read_image", die_once_steps_are_logged)
    line = refused(*words, f"out={folder}")
    assert "a data worker died" in line and "lower data.num_workers" in line
    assert f"{last_name(folder)} stands" in line
    assert last_name(folder) == f"step-{len(records_of(folder)):06d}"
    assert run([*words, f"out={folder}"]) == 0
    assert_same_run(straight, folder)


def test_weights_halfway_between_two_steps_are_not_saved(
    unbroken: tuple[Path, list[str]], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, words = unbroken
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "step", AtCall(4, fail_with(MemoryError())).over(LocalEngine.step))
        assert "there is no checkpoint yet" in refused(*words, f"out={folder}")
    assert not (folder / "checkpoints").exists()
    assert run([*words, f"out={folder}"]) == 0
    assert_same_run(straight, folder)


def test_a_runs_folder_that_is_deleted_while_it_trains_is_told_and_is_not_made_again(
    unbroken: tuple[Path, list[str]], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, words = unbroken
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "step", AtCall(2, lambda: shutil.rmtree(folder)).over(LocalEngine.step))
        line = refused(*words, f"out={folder}")
    assert f"{folder} is gone" in line and "there is no checkpoint yet" in line
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_the_first_step_stops_at_once_and_tells_of_no_checkpoint(
    number: signal.Signals, tiny_words: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}", "train.max_steps=1"]
    with monkeypatch.context() as patch:
        patch.setattr(stage, "new_model", AtCall(1, ask_to_stop(number)).over(new_model))
        line = refused(*words, status=130 if number == signal.SIGINT else 75)
    assert "there is no checkpoint yet" in line and not re.search("stands|go on", line)
    assert run(words) == 0


def test_a_signal_between_two_stages_tells_which_is_finished(
    tiny_words: list[str],
    two_stages: list[str],
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["train", *tiny_words[1:], *two_stages, f"out={tmp_path / 'both'}", "train.max_steps=1"]
    with monkeypatch.context() as patch:
        patch.setattr(stage, "new_model", AtCall(2, ask_to_stop(signal.SIGINT)).over(new_model))
        line = refused(*words, status=130)
    assert f"{tmp_path}/both/1-a is finished" in line and "2-b has no checkpoint yet" in line
    assert run(words) == 0


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ('[{"conversations": []}, {"conversations": []}]', "mine"),
        ("[]", "mine"),
        ("{", "gone.json, line 1"),
        (None, "gone.json"),
    ],
)
def test_the_data_of_the_last_stage_is_judged_before_the_first_trains(
    own: str | None,
    told: str,
    tiny_words: list[str],
    two_stages: list[str],
    refused: Refused,
    tmp_path: Path,
) -> None:
    path = tmp_path / "gone.json"
    if own is not None:
        path.write_text(own)
    experiment = tmp_path / "own" / "exp" / "two.yaml"
    stages = yaml.safe_load(experiment.read_text())
    good = [word for word in tiny_words if word.startswith(("path=", "images="))]
    stages["stages"][0]["overrides"] += good
    stages["stages"][1]["overrides"] += [f"path={path}"]
    experiment.write_text("# @package _global_\n" + yaml.safe_dump(stages))
    rest = [word for word in tiny_words[1:] if word not in good]
    line = refused("train", *rest, *two_stages, f"out={tmp_path / 'both'}", "train.max_steps=1")
    assert told in line
    assert not list(tmp_path.rglob("log.jsonl"))


def test_an_answer_on_the_way_keeps_what_was_trained(
    tiny_words: list[str], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop while the finished run is scored says that training is finished."""
    words = ["train", *tiny_words, f"out={tmp_path / 'run'}", "train.max_steps=1", "eval.benchmarks=[demo]"]
    with monkeypatch.context() as patch:
        patch.setattr(eval_command, "ask_benchmark", AtCall(1, ask_to_stop(signal.SIGINT)).over(lambda *_, **__: None))
        assert "training is finished" in refused(*words, "eval.limit=1", status=130)
    assert (tmp_path / "run" / "finished.json").exists()
