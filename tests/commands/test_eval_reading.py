"""``llava-moe eval`` reading results: comparison, leaks, the judge's and the blind run's words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.eval.gray_images import BLIND_FOLDER, BlindBenchmark, gray_image
from llava_moe.eval.question_hash import question_hash
from llava_moe.eval.tasks.demo import open_demo_benchmark
from tests.commands.conftest import Refusal
from tests.eval.scored_runs import guesser, write_scored


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs on the same draw of the demo, one better than the other."""
    benchmark = open_demo_benchmark(limit=3, min_compared=0)
    return [
        write_scored(tmp_path / label, benchmark, guesser(benchmark, number, skill))
        for number, (label, skill) in enumerate((("worse", 0.3), ("better run", 0.8)))
    ]


def words_of(folders: list[Path]) -> str:
    return "runs=[" + ",".join(f"'{folder}'" for folder in folders) + "]"


def test_two_runs_are_compared_in_four_files(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", words_of(runs), f"out={tmp_path / 'out'}"]) == 0
    shown = capsys.readouterr().out
    assert "better run" in shown and "one answer a domain" in shown
    assert "Next:" not in shown  # scores without a run beside them cannot be asked again
    (runs[0] / "config.yaml").touch()
    assert run(["eval", words_of(runs), f"out={tmp_path / 'out'}"]) == 0
    assert "Next:" in (shown := capsys.readouterr().out) and "blind=true" in shown
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"comparison.{kind}" for kind in ("json", "html", "md", "tex")}
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    whole = next(row for row in content["benchmarks"]["demo"]["rows"] if row["domain"] == "all" and row["is_main"])
    assert whole["runs"]["better run"]["stands_out"] and whole["runs"]["better run"]["difference"] > 0
    assert len(content["benchmarks"]["demo"]["disagreements"]) > 3


def test_a_blind_run_stands_beside_the_guesses(runs: list[Path], tmp_path: Path) -> None:
    benchmark = BlindBenchmark(open_demo_benchmark(limit=3, min_compared=0))
    write_scored(runs[0] / BLIND_FOLDER, benchmark, guesser(benchmark, 5, 0.1))
    assert run(["eval", words_of(runs), f"out={tmp_path / 'out'}", "benchmarks=[demo]"]) == 0
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert "worse, grey images" in content["benchmarks"]["demo"]["rows"][0]["baselines"]


def test_a_blind_benchmark_asks_the_same_beside_gray() -> None:
    seeing = open_demo_benchmark(limit=2, min_compared=0)
    blind = BlindBenchmark(seeing)
    pairs = list(zip(seeing.questions(), blind.questions(), strict=True))
    assert all(
        (one.id, one.prompt, one.references) == (other.id, other.prompt, other.references) for one, other in pairs
    )
    assert all(set(other.images) == {gray_image()} for _, other in pairs)
    assert all(question_hash(one) != question_hash(other) for one, other in pairs)
    assert "grey" in blind.facts.data and blind.submission({}) is None and "grey" in blind.notes()[0]


def test_other_draws_are_refused_in_one_line_and_shared_on_request(
    runs: list[Path], tmp_path: Path, refused: Refusal
) -> None:
    other = open_demo_benchmark(limit=2, min_compared=0)
    folder = write_scored(tmp_path / "other", other, guesser(other, 9, 0.5))
    line = refused("eval", words_of([runs[0], folder]))
    assert "data differs" in line and "common=true" in line
    assert run(["eval", words_of([runs[0], folder]), "common=true", f"out={tmp_path / 'out'}"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["runs=[nowhere]"], "nowhere does not exist"),
        (["runs=[]"], "names no run"),
        (["runs=[a]", "run=b"], "takes no run="),
        (["runs=[a]", "leaks=true"], "takes no leaks="),
        (["runs=[a]", "blind=true"], "takes no blind="),
        (["runs=a"], "runs=a"),
        (["leaks=true"], "add run=FOLDER"),
        (["leaks=true", "run=a", "blind=true"], "takes no blind="),
        (["leaks=true", "run=nowhere"], "nowhere does not exist"),
        (["judge.name=x", "run=a"], "judge.endpoint="),
        (["judge.endpoint=http://127.0.0.1:1/v1", "run=a"], "judge.name="),
        (["judge.endpoint=http://127.0.0.1:1/v1", "judge.name=x"], "add run=FOLDER"),
        (["judge.temperature=-1", "runs=[a]"], "judge.temperature=-1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_do_not_go_together_are_one_line(refused: Refusal, words: list[str], told: str) -> None:
    assert told in refused("eval", *words)


def test_a_judge_that_is_not_there_is_named_by_its_own_keys(runs: list[Path], refused: Refusal) -> None:
    line = refused("eval", f"run={runs[0]}", "judge.endpoint=http://127.0.0.1:1/v1", "judge.name=x", "judge.attempts=1")
    assert "judge.endpoint" in line and "model." not in line


def test_a_folder_without_scores_says_how_to_get_them(tmp_path: Path, refused: Refusal) -> None:
    (tmp_path / "bare").mkdir()
    assert f"llava-moe eval run={tmp_path / 'bare'}" in refused("eval", words_of([tmp_path / "bare"]))
