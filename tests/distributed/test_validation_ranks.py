"""Two real ranks (gloo on CPU) measure while training what one process measures, under every ZeRO stage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.conftest import Launch
from tests.distributed.test_ranks import rewind, spread
from tests.eval.tasks.published import LAYOUTS

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def words(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words for two steps of a tiny LLaVA-MoLE, each measured."""
    folder = tmp_path_factory.mktemp("data")
    os.environ["LLAVA_MOE_CACHE"] = str(folder / "cache")
    os.environ["LLAVA_MOE_BENCHMARKS"] = str(folder / "benchmarks")
    LAYOUTS["pope"]["official"](folder / "benchmarks" / "pope")
    return [
        *words_for_tiny,
        *("train.max_steps=2", "train.global_batch_size=7", "adapter.lora_dropout=0.0", "train.warmup_ratio=0"),
        *("stage.demo.learning_rates.adapter=2e-4", "stage.demo.learning_rates.projector=2e-4"),
        *("data.held_out=0.3", "eval.every=1", "eval.best=held_out_loss"),
    ]


@pytest.fixture(scope="module")
def alone(words: list[str], launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    launch("one", [*words, "eval.during=[pope]"], folder / "run", folder)
    return folder / "run"


def validations_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_measure_what_one_process_measures(
    stage: int, words: list[str], launch: Launch, alone: Path, tmp_path: Path
) -> None:
    asks = [] if stage == 3 else ["eval.during=[pope]"]
    launch("ranks", [*words, *spread(stage), *asks], tmp_path / "run", tmp_path)
    left, right = validations_of(alone), validations_of(tmp_path / "run")
    assert [line["step"] for line in right] == [1, 2]
    for one, two in zip(left, right, strict=True):
        assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], abs=1e-6)
        assert (two["supervised_tokens"], two["samples"]) == (one["supervised_tokens"], one["samples"])
        if asks:
            assert two["benchmarks"] == one["benchmarks"] != {}
    best = [(folder / "checkpoints" / "best").read_text() for folder in (alone, tmp_path / "run")]
    assert best[0] == best[1]


def test_measuring_on_two_ranks_leaves_their_training_as_it_is(
    words: list[str], launch: Launch, tmp_path: Path
) -> None:
    drops = [
        *words,
        "parallel=zero2",
        "adapter.lora_dropout=0.1",
        "train.max_steps=4",
        "train.save_every=2",
        "train.keep_last=9",
    ]
    launch("ranks", drops, tmp_path / "measured", tmp_path)
    launch("ranks", [*drops, "eval.every=0", "eval.best=null"], tmp_path / "plain", tmp_path)
    measured, plain = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("measured", "plain")
    )
    assert [(line["sample_hash"], line["loss"]) for line in measured] == [
        (line["sample_hash"], line["loss"]) for line in plain
    ]
    before = validations_of(tmp_path / "measured")
    rewind(tmp_path / "measured", 2)
    launch("ranks", drops, tmp_path / "measured", tmp_path)
    assert validations_of(tmp_path / "measured") == before
