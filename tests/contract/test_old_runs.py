"""Run folders that an earlier version wrote open, go on, answer and export as they did.

How they were made stands in tests/fixtures/old_runs/README.md. What needs no arithmetic is held to the bit. Losses may
differ by 1e-6 of themselves, weights after four more steps by 1e-4 of their norm: another instruction set makes 1e-8
and 1e-7, a resume without the optimizer's moments 2e-4 and 0.3.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlavaForConditionalGeneration

from llava_moe import load_run
from llava_moe.adapters import load_adapter
from llava_moe.cli import run
from tests.old_runs import (
    LAST,
    RESUMED_FILES,
    command_of,
    copied,
    digests,
    expected,
    first_draws,
    lines_of,
    sketches,
    stored_tensors,
)

LOSS_TOLERANCE = 1e-6
WEIGHT_TOLERANCE = 1e-4
FINISHED_STEP = "checkpoints/step-000004"
QUESTIONS = "benchmarks=[questions/questions.jsonl]"


@pytest.fixture(scope="module", autouse=True)
def _same_base() -> None:
    if first_draws() != expected()["first_draws"]:
        pytest.skip("torch draws other random weights on this processor (no AVX2): the base of these runs is not here")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, embedded_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def test_a_finished_run_opens_with_the_tensors_of_its_files(tmp_path: Path) -> None:
    folder = copied("finished", tmp_path) / FINISHED_STEP
    model, processor = load_run(tmp_path / "finished")
    assert processor.tokenizer("a b").input_ids
    weights = dict(model.named_parameters())
    projector = stored_tensors(folder / "projector.safetensors")
    assert {name: weights[name].detach().numpy().tobytes() for name in projector} == {
        name: tensor.content for name, tensor in projector.items()
    }
    adapter = stored_tensors(folder / "adapter/adapter_model.safetensors")
    attached = load_adapter(LlavaForConditionalGeneration(model.config), folder / "adapter")
    assert {name: tensor.numpy().tobytes() for name, tensor in attached.state_dict().items()} == {
        name: tensor.content for name, tensor in adapter.items()
    }
    attached.save(tmp_path / "saved")
    assert digests(tmp_path / "saved/adapter_model.safetensors") == digests(
        folder / "adapter/adapter_model.safetensors"
    )
    settings = json.loads((tmp_path / "saved/adapter_config.json").read_text())
    assert settings == json.loads((folder / "adapter/adapter_config.json").read_text())


def test_a_finished_run_answers_as_it_did(tmp_path: Path) -> None:
    copied("finished", tmp_path)
    copied("questions", tmp_path)
    assert run(["eval", "run=finished", QUESTIONS, "num_threads=1", "out=again"]) == 0
    before, now = (lines_of(tmp_path / place / "questions.answers.jsonl") for place in ("finished/eval", "again/eval"))
    told = ("question_id", "references", "asked", "model")
    assert [[line[key] for key in told] for line in now] == [[line[key] for key in told] for line in before]
    # Two words may be as likely as each other to the last bit: one answer of the twelve may be another.
    changed = sum(ours["prediction"] != theirs["prediction"] for ours, theirs in zip(now, before, strict=True))
    assert changed <= 1
    scores, earlier = (_scores(tmp_path / place / "results.json") for place in ("again/eval", "finished/eval"))
    assert scores.keys() == earlier.keys()
    assert earlier["all", "exact_match"] == 0.5
    for key, score in earlier.items():
        assert scores[key] == pytest.approx(score, abs=1e-6 + changed / 6)


def test_answers_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    answers = copied("finished", tmp_path) / "eval/questions.answers.jsonl"
    copied("questions", tmp_path)
    (first, *others) = answers.read_text().splitlines(keepends=True)
    kept = first.replace(json.loads(first)["prediction"], "what no model would say")
    answers.write_text("".join([kept, *others]))
    assert run(["eval", "run=finished", QUESTIONS, "num_threads=1"]) == 0
    assert answers.read_text() == "".join([kept, *others])
    assert "what no model would say" in (tmp_path / "finished/report.html").read_text()


def test_a_stopped_run_goes_on_as_it_would_have(tmp_path: Path) -> None:
    folder = copied("stopped", tmp_path)
    before = (folder / "log.jsonl").read_text().splitlines()
    assert run(command_of(folder)) == 0
    after = (folder / "log.jsonl").read_text().splitlines()
    assert after[:4] == before[:4]
    assert [line["step"] for line in lines_of(folder / "log.jsonl")] == [*range(1, 9)]
    for line, then in zip(lines_of(folder / "log.jsonl"), expected()["steps"], strict=True):
        assert line["sample_hash"] == then["sample_hash"]
        assert line["loss"] == pytest.approx(then["loss"], rel=LOSS_TOLERANCE)
    for name in RESUMED_FILES:
        _assert_near(sketches(folder / "checkpoints" / LAST / name), expected()["resumed"][name])
    if os.environ.get("OLD_RUNS_TO_THE_BIT"):  # where the folders were written: see their README
        assert expected()["resumed_sha256"] == {
            name: hashlib.sha256((folder / "checkpoints" / LAST / name).read_bytes()).hexdigest()
            for name in RESUMED_FILES
        }


def test_a_finished_run_is_exported_as_it_was(tmp_path: Path) -> None:
    copied("finished", tmp_path)
    assert run(["export", "run=finished", "to=peft", "out=exported"]) == 0
    exported = tmp_path / "exported"
    found = {str(path.relative_to(exported)): digests(path) for path in exported.rglob("*.safetensors")}
    assert found == expected()["exported"]


def test_old_runs_stand_in_the_list_and_a_finished_one_is_not_trained_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("finished", "stopped"):
        copied(name, tmp_path / "runs")
    assert run(["ls", "run"]) == 0
    listed = capfd.readouterr().out
    for told in (
        "runs/finished",
        "llava_mole",
        "finished, 4 steps",
        "runs/stopped",
        "mixlora",
        "5 of 8 steps, 4 saved",
    ):
        assert told in listed
    before = (tmp_path / "runs/finished/log.jsonl").read_bytes()
    assert run([*command_of(tmp_path / "runs/finished"), "out=runs/finished"]) == 0
    assert (tmp_path / "runs/finished/log.jsonl").read_bytes() == before


def _scores(path: Path) -> dict[tuple[str, str], float]:
    (result,) = json.loads(path.read_text()).values()
    return {(domain, measure): score for domain, row in result["domains"].items() for measure, score in row.items()}


def _assert_near(found: dict[str, list[float]], then: dict[str, Any]) -> None:
    assert found.keys() == then.keys()
    for name, (norm, wave) in then.items():
        np.testing.assert_allclose(found[name], [norm, wave], rtol=0, atol=WEIGHT_TOLERANCE * norm, err_msg=name)
