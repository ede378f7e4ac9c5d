"""What is measured item by item is what the training's own validation and the benchmark's table say in sum."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.errors import UserError
from llava_moe.eval.files import read_result
from studies.conflict.measure import measure, questions_of

WORDS = (
    "exp=mix_general_doc_med",
    "scale=demo",
    "model=tiny",
    "adapter=mixlora",
    "adapter.num_factors=4",
    "adapter.r=2",
)
SIZES = ("domains=[general]", "data.sources.general.cap=8", "train.global_batch_size=4", "train.max_steps=2")
THREADS = ("train.num_threads=1", "data.num_workers=0")


def test_items_add_up_to_the_validation_of_the_training_and_the_benchmark_s_score(
    embedded_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    folder = tmp_path / "run"
    validation = ("eval.every=2", "eval.split=val", "eval.held_out_limit=0")
    assert run(["train", *WORDS, *SIZES, *THREADS, *validation, f"out={folder}"]) == 0
    assert run(["eval", f"run={folder}", "benchmarks=[demo]", "limit=1", "num_threads=1"]) == 0
    told = measure(folder, ["general", "medical"], "val", "demo")

    (line,) = (json.loads(one) for one in (folder / "validation.jsonl").read_text().splitlines())
    general = [one for one in told["records"] if one["domain"] == "general"]
    assert len(general) == line["domains"]["general"]["samples"]
    tokens = sum(one["tokens"] for one in general)
    assert tokens == line["domains"]["general"]["supervised_tokens"]
    assert sum(one["nats"] for one in general) / tokens == pytest.approx(line["domains"]["general"]["loss"], abs=1e-5)
    assert len({one["key"] for one in told["records"]}) == len(told["records"])
    assert {one["domain"] for one in told["records"]} == {"general", "medical"}

    result = read_result(folder, "demo")
    assert result is not None
    for domain in ("general", "medical"):
        rights = [one["right"] for one in told["questions"] if one["domain"] == domain]
        row = result.row(domain).measures["exact_match"]
        # The table leaves out the few questions that no other image carries.
        assert len(rights) >= row.num_questions
        if len(rights) == row.num_questions:
            assert sum(rights) / len(rights) == pytest.approx(row.value)
    assert json.loads((folder / "environment.json").read_text())["base_model"] == told["base"]
    with pytest.raises(UserError, match="trains on 'train'"):
        measure(folder, ["general"], "train", "demo")
    with pytest.raises(UserError, match="no closed question of elsewhere"):
        questions_of(folder, ["elsewhere"], "demo")
