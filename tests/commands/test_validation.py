"""What is measured while training: it disturbs nothing, is the same on any number of ranks, and names the best."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llava_moe.assemble import restore
from llava_moe.cli import run
from llava_moe.data.images.transform import ImageTransform
from llava_moe.eval.files import read_result
from llava_moe.files.checkpoints import last_checkpoint, newest_checkpoint
from llava_moe.runs import stage_validation
from llava_moe.runs.run_recorder import StageRun
from llava_moe.runs.stage_validation import StageHeldOut
from llava_moe.train.loss import StepSums
from llava_moe.train.state import RunState
from tests.eval.tasks.published import LAYOUTS

MEASURED = ["data.held_out=0.3", "eval.every=2", "eval.best=held_out_loss"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def validations_of(folder: Path) -> list[dict[str, Any]]:
    return lines_of(folder / "validation.jsonl")


def trained(words: list[str], out: Path, *more: str) -> Path:
    assert run(["train", *words, *more, f"out={out}"]) == 0
    return out


def training_of(folder: Path) -> list[Any]:
    kept = ("step", "sample_hash", "loss", "load_balance_loss", "grad_norm", "domains", "experts")
    return [{key: line.get(key) for key in kept} for line in lines_of(folder / "log.jsonl")]


def random_numbers() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return random.getstate(), state[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("adapter", ["llava_mole", "mixlora"])
def test_measuring_leaves_later_steps_as_they_are_bit_for_bit(
    adapter: str, tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny_words, f"adapter={adapter}", "adapter.lora_dropout=0.1", "data.held_out=0.3"]
    plain = trained(words, tmp_path / "plain")
    measure, seen = stage_validation.StageValidation.measure, []

    def watched(self: Any, step: int, *more: Any) -> Any:
        modes = [part.training for part in self.engine.module.modules()]
        before = random_numbers()
        found = measure(self, step, *more)
        assert random_numbers() == before
        assert [part.training for part in self.engine.module.modules()] == modes
        seen.append(step)
        return found

    monkeypatch.setattr(stage_validation.StageValidation, "measure", watched)
    LAYOUTS["pope"]["official"](tmp_path / "benchmarks" / "pope")
    monkeypatch.setenv("LLAVA_MOE_BENCHMARKS", str(tmp_path / "benchmarks"))
    more = ["eval.every=2", "eval.during=[pope]", "eval.best=pope.pope_accuracy"]
    measured = trained(words, tmp_path / "measured", *more)
    assert seen == [2, 4, 6]
    assert training_of(measured) == training_of(plain)
    assert weights_of(measured) == weights_of(plain)
    scores = [line["benchmarks"]["pope"]["pope_accuracy"] for line in validations_of(measured)]
    assert (measured / "checkpoints" / "best").read_text() == f"step-{2 + 2 * scores.index(max(scores)):06d}\n"
    asked = read_result(measured / "validation" / "step-000004", "pope")
    assert asked is not None and asked.row("all").measures["pope_accuracy"].value == scores[1]


def weights_of(folder: Path) -> dict[str, bytes]:
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    files = (path for path in checkpoint.rglob("*") if path.is_file())
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in files}


def test_held_out_loss_is_the_token_mean_of_records_asked_one_by_one(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[StageHeldOut | None] = []
    open_held_out = stage_validation.open_held_out

    def seen(*a: Any) -> StageHeldOut | None:
        opened.append(open_held_out(*a))
        return opened[-1]

    monkeypatch.setattr(stage_validation, "open_held_out", seen)
    folder = trained(tiny_words, tmp_path / "run", *MEASURED)
    lines = validations_of(folder)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assembled = restore(folder)
    (held_out,) = opened
    assert held_out is not None
    (index,), (records,) = held_out.indexes, held_out.records
    assert 5 < len(index.rows) < 30
    transform = assembled.encoder.transform
    assert isinstance(transform, ImageTransform)
    total, num_tokens = 0.0, 0
    for row in index.rows.tolist():
        example = assembled.encoder.encode(records[row], records.image_root, 0)
        ids, labels = (torch.from_numpy(part)[None].long() for part in (example.input_ids, example.labels))
        pixels = transform.normalize(torch.from_numpy(example.pixels)) if len(example.pixels) else None
        with torch.no_grad():
            loss = assembled.model(input_ids=ids, labels=labels, pixel_values=pixels).loss
        count = int((labels[0, 1:] != -100).sum())
        total, num_tokens = total + float(loss) * count, num_tokens + count
    assert lines[-1]["supervised_tokens"] == num_tokens and lines[-1]["samples"] == len(index.rows)
    assert lines[-1]["held_out_loss"] == pytest.approx(total / num_tokens, abs=1e-5)


def test_a_limit_draws_of_each_domain_by_the_seed(tiny_words: list[str], tmp_path: Path) -> None:
    words = ["train.max_steps=1", *MEASURED, "eval.held_out_limit=4"]
    lines = [
        validations_of(trained(tiny_words, tmp_path / name, *words, f"seed={seed}"))[0]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert lines[0] == lines[1] != lines[2]
    assert [line["samples"] for line in lines] == [4, 4, 4]


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def test_killed_and_resumed_gives_the_same_validations_and_the_same_best(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny_words, *MEASURED, "train.max_steps=9", "train.save_every=3", "train.keep_last=1"]
    whole = trained(words, tmp_path / "whole")
    measured: list[int] = []
    measure = stage_validation.StageValidation.measure
    for stop in ((StageRun, "log", 3), (stage_validation, "measured", 4), (StageRun, "save", 6), (StageRun, "log", 8)):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            kill_at(patch, *stop)
            run(["train", *words, f"out={tmp_path / 'broken'}"])

    def noted(self: stage_validation.StageValidation, step: int, *more: Any) -> Any:
        measured.append(step)
        return measure(self, step, *more)

    monkeypatch.setattr(stage_validation.StageValidation, "measure", noted)
    broken = trained(words, tmp_path / "broken")
    assert (broken / "validation.jsonl").read_bytes() == (whole / "validation.jsonl").read_bytes()
    assert (broken / "checkpoints" / "best").read_text() == (whole / "checkpoints" / "best").read_text()
    assert measured and len(set(measured)) == len(measured)


def kill_at(patch: pytest.MonkeyPatch, owner: Any, name: str, step: int) -> None:
    """Stop a run as it logs, has measured, or has saved a step."""
    if name == "measured":
        owner, name = stage_validation.StageValidation, "measure"
    original = getattr(owner, name)

    def killed(self: Any, what: Any, *more: Any) -> Any:
        found = original(self, what, *more)
        at = what if isinstance(what, int) else what.step if isinstance(what, RunState) else what.fields["step"]
        if at == step:
            raise KilledError
        return found

    patch.setattr(owner, name, killed)


def test_best_names_the_first_step_of_the_lowest_loss_and_outlives_pruning(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, math.nan, 1.0])

    def prescribed(*_: Any) -> StepSums:
        sums = StepSums.zeros(1)
        sums.loss_D += 7 * next(losses)
        sums.supervised_D += 7
        sums.samples_D += 1
        return sums

    monkeypatch.setattr(stage_validation, "held_out_sums", prescribed)
    words = [*MEASURED, "train.max_steps=8", "train.save_every=1", "train.keep_last=1"]
    folder = trained(tiny_words, tmp_path / "run", *words)
    assert [line["held_out_loss"] for line in validations_of(folder)] == [3.0, 1.0, None, 1.0]
    assert "NaN" not in (folder / "validation.jsonl").read_text()
    name = (folder / "checkpoints" / "best").read_text().strip()
    assert name == "step-000004"
    assert sorted(path.name for path in (folder / "checkpoints").glob("step-*")) == [name, "step-000008"]
    assert newest_checkpoint(folder / "checkpoints" / name).name == name
    LAYOUTS["pope"]["official"](tmp_path / "pope")
    words = [f"run={folder / 'checkpoints' / name}", "benchmarks=[pope]", f"benchmark_root={tmp_path}"]
    assert run(["eval", *words, f"out={tmp_path / 'scores'}"]) == 0


def test_the_demo_measures_its_split_by_domain(
    tiny_words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["exp=mix_general_doc_med", "scale=demo", "model=tiny", "train.num_threads=1", "data.num_workers=0"]
    words += ["train.max_steps=2", "eval.every=1", "eval.split=val", "eval.held_out_limit=6", "eval.benchmarks=[]"]
    folder = trained(words, tmp_path / "run", "eval.best=held_out_loss.documents")
    line = validations_of(folder)[-1]
    assert {name: one["samples"] for name, one in line["domains"].items()} == {
        "general": 6,
        "documents": 6,
        "medical": 6,
    }
    total = sum(one["loss"] * one["supervised_tokens"] for one in line["domains"].values())
    assert line["held_out_loss"] == pytest.approx(total / line["supervised_tokens"], rel=1e-9)
    assert (folder / "checkpoints" / "best").read_text().startswith("step-00000")
    assert "dotted: on" in (folder / "report.html").read_text()
    assert f"2/2 held-out loss {line['held_out_loss']:.4f} (general " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["eval.best=held_out_loss"], "give eval.every=STEPS"),
        (["eval.during=[demo]"], "give eval.every=STEPS"),
        (["eval.every=2"], "has nothing to measure: give data.held_out=0.02"),
        (["eval.every=2", "data.held_out=0.3", "eval.best=held_out_los"], "(did you mean held_out_loss?)"),
        (["eval.every=2", "data.held_out=0.3", "eval.best=held_out_loss.generl"], "(did you mean held_out_loss.mine?)"),
        (["eval.every=2", "eval.during=[demo]", "eval.best=demo.exactmatch"], "(did you mean demo.exact_match?)"),
        (["eval.every=2", "eval.during=[demo]", "eval.best=held_out_loss"], "will not be measured"),
        (["eval.every=2", "eval.during=[dem]"], "(did you mean demo?)"),
        (["eval.every=2", "eval.split=val"], "no record of split 'val'"),
        (["eval.every=2", "eval.during=[demo]", "parallel=zero3"], "choose parallel=ddp"),
    ],
)
def test_a_validation_that_cannot_be_is_refused_before_training(
    words: list[str], told: str, tiny_words: list[str], refused: Any, tmp_path: Path
) -> None:
    assert told in refused("train", *tiny_words, *words, f"out={tmp_path / 'run'}")
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", ["eval.split=all"]),
        ("", ["eval.split=val", "data.sources.mine.split=all"]),
        ("/validation.json", ["eval.split=val"]),
        ("/validation.json", ["eval.split=dev"]),
    ],
)
def test_records_that_are_trained_on_are_never_measured_as_held_out(
    name: str, words: list[str], tiny_words: list[str], tmp_path: Path, refused: Any
) -> None:
    folder = tmp_path / "splits"
    folder.mkdir()
    turns = [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "so"}]
    for split in ("train", "validation"):
        (folder / f"{split}.json").write_text(json.dumps([{"id": split, "conversations": turns}] * 4))
    kept = [word for word in tiny_words if not word.startswith(("path=", "images="))]
    line = refused("train", *kept, f"path={folder}{name}", "eval.every=2", *words)
    assert f"{words[0]}: source 'mine' trains on it" in line
