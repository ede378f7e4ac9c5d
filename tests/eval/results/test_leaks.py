"""Scores with and without the questions that were trained on, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.eval.results.leaks import LeakReport, leak_table, leaks_json, leaks_list, split_scores
from llava_moe.eval.results.scored_run import read_scored
from llava_moe.eval.tasks import Places, open_benchmark
from tests.eval.scored_runs import write_scored
from tests.eval.tasks.published import LAYOUTS


@pytest.fixture
def report(tmp_path: Path) -> LeakReport:
    """Tiny LVLM-eHub's fixture: every first answer of an ability is right, and was trained on."""
    place = tmp_path / "data"
    next(iter(LAYOUTS["tiny_lvlm"].values()))(place)
    benchmark = open_benchmark("tiny_lvlm", places=Places(paths={"tiny_lvlm": str(place)}, cache=tmp_path / "cache"))
    folder = write_scored(
        tmp_path / "run",
        benchmark,
        lambda question: benchmark.oracle(question) if question.id.endswith("/0") else "xyz",
    )
    run = read_scored(folder, "run", "tiny_lvlm")
    kinds = {name: "image" for name in run.answers if name.endswith("/0")}
    return LeakReport("tiny_lvlm", len(run.answers), kinds, split_scores(run, benchmark, kinds))


def test_scores_are_split_by_what_was_trained_on(report: LeakReport) -> None:
    rows = {(row.domain, row.measure): row for row in report.rows}
    whole = rows["all", "tiny_lvlm_word_match"]
    assert whole.leaked == 1.0 and whole.without == 0.0 and whole.num_leaked == len(report.kinds) == 5
    assert whole.value == pytest.approx(5 / report.num_questions)
    assert rows["all", "tiny_lvlm_overall"].leaked == pytest.approx(500.0)
    assert rows["all", "tiny_lvlm_overall"].without == pytest.approx(0.0)


def test_the_table_and_the_files_hold_the_same(report: LeakReport) -> None:
    table = leak_table(report)
    whole = next(row for row in table.rows if row[:2] == ("all", "tiny lvlm overall"))
    assert whole[4:] == ("5", "0.0", "500.0")
    content = json.loads(leaks_json([report], {"run": "r"}))["benchmarks"]["tiny_lvlm"]
    assert content["counts"] == {"image": 5} and content["num_questions"] == report.num_questions
    lines = [json.loads(line) for line in leaks_list([report]).splitlines()]
    assert [line["question_id"] for line in lines] == list(report.kinds) and lines[0]["found"] == "image"


def test_nothing_leaked_leaves_no_score_on_leaked_questions(report: LeakReport, tmp_path: Path) -> None:
    benchmark = open_benchmark(
        "tiny_lvlm", places=Places(paths={"tiny_lvlm": str(tmp_path / "data")}, cache=tmp_path / "cache")
    )
    rows = split_scores(read_scored(tmp_path / "run", "run", "tiny_lvlm"), benchmark, {})
    assert all(row.leaked is None and row.num_leaked == 0 for row in rows)
    assert all(row.without == pytest.approx(row.value) for row in rows)
