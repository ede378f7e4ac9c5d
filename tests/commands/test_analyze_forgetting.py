"""``analyze forgetting`` on three tiny runs that were trained one after another and really scored."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_moe.cli import run
from llava_moe.eval.benchmark import Question
from llava_moe.eval.files import answers_path, read_answers
from llava_moe.eval.tasks import open_benchmark
from llava_moe.eval.tasks.demo import DemoBenchmark
from tests.commands.conftest import Refusal
from tests.eval.scored_runs import Predict, guesser, write_scored

NAMES = ("general", "documents", "medical")
RUNS = f"runs=[{','.join(NAMES)}]"
ASK = ["analyze", "forgetting", RUNS, "resamples=200"]
MORE = ("adapter=lora", "train.max_steps=1", "eval.every=1", "data.held_out=0.3", "eval.held_out_limit=4")


def train(words: tuple[str, ...], domain: str, *more: str) -> int:
    """One step on records that are said to be of this domain."""
    return run(["train", *words, *MORE, f"data.sources.mine.domain={domain}", *more])


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs, each started from the one before and scored on a question of each kind."""
    folder = tmp_path_factory.mktemp("sequence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        before: list[str] = []
        for name in NAMES:
            assert train(words_for_tiny, name, *before, f"out={name}") == 0
            assert run(["eval", f"run={name}", "benchmarks=[demo]", "limit=1", "num_threads=1"]) == 0
            before = [f"init_from={name}"]
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, as the current folder."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(trained / "cache"))
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("cache")))
    return Path.cwd()


def answer(skills: dict[str, dict[str, float]], limit: int | None = 3) -> None:
    """Put answers of known skill by domain in the place of each run's own, scored as any answers are."""
    for place, name in enumerate(NAMES):
        if name not in skills:
            continue
        benchmark = open_benchmark("demo", limit, 0)
        by_domain = {domain: guesser(benchmark, place, skill) for domain, skill in skills[name].items()}

        def predict(question: Question, known: dict[str, Predict] = by_domain) -> str:
            return known[question.domain](question)

        shutil.rmtree(Path(name, "eval"))
        write_scored(Path(name), benchmark, predict)


def results() -> dict[str, Any]:
    return json.loads(Path("medical/analyze/forgetting.json").read_text())


def real_score(name: str, part: str) -> float:
    """What eval said of a run."""
    told = json.loads(Path(name, "eval/results.json").read_text())
    return float(told["demo"]["domains"][part]["exact_match"])


def values(cells: list[list[dict[str, float]]]) -> list[list[float]]:
    return [[cell["value"] for cell in row] for row in cells]


def test_the_matrix_of_real_runs_holds_their_own_results_and_losses(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ASK) == 0
    told = results()
    expected = [[real_score(name, part) for part in NAMES] for name in NAMES]
    np.testing.assert_allclose(values(told["score"]["R"]), expected, atol=1e-6)
    assert [part["trained_by"] for part in told["parts"]] == list(NAMES)
    for place, name in enumerate(NAMES):
        line = json.loads(Path(name, "validation.jsonl").read_text().splitlines()[-1])
        own = told["held_out_loss"]["R"][place]
        assert own[place]["value"] == line["domains"][name]["loss"]
        assert [cell["value"] for at, cell in enumerate(own) if at != place] == [None, None]
    assert set(told["held_out_loss"]) == {"R", "changes", "MFT"}
    assert "MFT" in capsys.readouterr().out
    assert "analyze/forgetting.html" in Path("medical/report.html").read_text()


def test_what_was_forgotten_is_found_and_the_same_command_writes_the_same_bytes(here: Path) -> None:
    answer(
        {
            "general": {"general": 0.9, "documents": 0.1, "medical": 0.1},
            "documents": {"general": 0.5, "documents": 0.9, "medical": 0.1},
            "medical": {"general": 0.1, "documents": 0.9, "medical": 0.9},
        }
    )
    assert run(ASK) == 0
    files = {path: path.read_bytes() for path in Path("medical/analyze").iterdir()}
    assert {path.suffix for path in files} == {".json", ".csv", ".svg", ".html"}
    assert run(ASK) == 0
    assert {path: path.read_bytes() for path in Path("medical/analyze").iterdir()} == files
    told = results()["score"]
    at = np.array(values(told["R"]))
    numbers = {
        "MFT": at.diagonal().mean(),
        "MFN": at[2].mean(),
        "MAA": (at[0, 0] + at[1, :2].mean() + at[2].mean()) / 3,
        "BWT": ((at[2, 0] - at[0, 0]) + (at[2, 1] - at[1, 1])) / 2,
    }
    assert {name: told[name]["value"] for name in numbers} == pytest.approx(numbers)
    general, documents = told["changes"]
    assert general["high"] < 0 and at[2, 0] - at[0, 0] == pytest.approx(general["value"])
    assert documents["low"] <= 0 <= documents["high"]
    rows = [*csv.DictReader(Path("medical/analyze/forgetting.csv").read_text().splitlines())]
    (cell,) = [row for row in rows if (row["by"], row["after"], row["part"]) == ("score", "documents", "general")]
    assert cell["quantity"] == "R" and float(cell["value"]) == at[1, 0] and float(cell["low"]) <= at[1, 0]


def test_the_score_of_all_questions_stands_where_it_is_asked_for(here: Path) -> None:
    assert run([*ASK, "measure=exact_match_all", "out=elsewhere"]) == 0
    told = json.loads(Path("elsewhere/forgetting.json").read_text())
    benchmark = open_benchmark("demo", 1, 0)
    assert isinstance(benchmark, DemoBenchmark)
    domain = {pair.id: pair.domain for pair in benchmark.pairs}
    answers = read_answers(answers_path(Path("general"), "demo"))
    right = [one.score["exact_match"] for one in answers if domain.get(one.question_id) == "documents"]
    assert told["score"]["R"][0][1]["value"] == pytest.approx(sum(right) / len(right))
    assert not Path("medical/analyze").exists()


def test_runs_that_are_no_sequence_are_told_what_to_do(
    here: Path, words_for_tiny: tuple[str, ...], refused: Refusal
) -> None:
    assert "needs runs=" in refused("analyze", "forgetting")
    assert "names one run: give two or more in the order of training" in refused(
        "analyze", "forgetting", "runs=[general]"
    )
    assert "nosuch does not exist" in refused("analyze", "forgetting", "runs=[general,nosuch]")
    assert "named twice" in refused("analyze", "forgetting", "runs=[general,general]")
    line = refused("analyze", "forgetting", "runs=[documents,general]")
    assert "general was not started from documents: the order of training is 'runs=[general,documents]'" in line
    line = refused("analyze", "forgetting", "runs=[general,medical]")
    assert "between general and medical stands" in line and "name it, too" in line
    assert train(words_for_tiny, "documents", "seed=3", "out=alone") == 0
    line = refused("analyze", "forgetting", "runs=[general,alone]")
    assert "alone was not started from general (its init_from leads to no run)" in line
    assert "did you mean vqav2" in refused(*ASK, "benchmarks=[vqa2]")
    assert "resamples=5" in refused("analyze", "forgetting", RUNS, "resamples=5")
    assert "is no part that all runs were scored on: there is demo.general" in refused(*ASK, "parts=[a,b,c]")


def test_scores_that_are_missing_or_were_asked_otherwise_are_told_with_the_command(
    here: Path, refused: Refusal
) -> None:
    answer({"documents": dict.fromkeys(NAMES, 0.5)}, limit=2)
    line = refused(*ASK)
    assert "general was asked with limit=1" in line and "documents with limit=2" in line
    shutil.rmtree("documents/eval")
    assert "documents has not been scored on demo: llava-moe eval run=documents 'benchmarks=[demo]'" in refused(*ASK)
    shutil.rmtree("general/eval")
    shutil.rmtree("medical/eval")
    line = refused(*ASK)
    assert (
        "general has not been scored: llava-moe eval run=general 'benchmarks=[NAME]', and the other runs alike" in line
    )


def test_runs_of_bases_that_differ_are_refused_with_both(here: Path, refused: Refusal) -> None:
    path = Path("medical/environment.json")
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"base_layers": "0123456789abcdef", "base_model": "0123456789abcdef"}))
    line = refused(*ASK)
    assert "general was trained on weights" in line and "medical on weights 01234567: give runs of one base" in line
