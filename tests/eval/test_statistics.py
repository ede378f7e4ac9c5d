"""Measures as sums over questions: each benchmark's own summary is what they must give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llava_moe.eval.benchmark import Answer, Benchmark
from llava_moe.eval.protocol import PROTOCOLS
from llava_moe.eval.results.score_matrix import ScoreMatrix, make_score_matrix, scores_of
from llava_moe.eval.statistics import YES_NO, find_statistic, find_statistics, ratio, statistic_of
from llava_moe.eval.tasks import Places, open_benchmark
from llava_moe.eval.tasks.demo import open_demo_benchmark
from tests.eval.scored_runs import guesser
from tests.eval.tasks.published import LAYOUTS

# lmms-eval's POPE leaves answers that are neither yes nor no out of some ratios: their terms are not known from scores.
WITHOUT_TERMS = {("pope", "lmms_eval")}


def answered(benchmark: Benchmark, seed: int, skill: float) -> dict[str, Answer]:
    predict = guesser(benchmark, seed, skill)
    return {
        question.id: Answer(
            question.id, predict(question), question.references, benchmark.score(question, predict(question))
        )
        for question in benchmark.questions()
    }


def sheet_of(domains: list[str], yes: list[bool] | None = None, groups: list[str] | None = None) -> ScoreMatrix:
    num = len(domains)
    names = tuple(f"q{number}" for number in range(num))
    clusters = np.arange(num)
    is_yes = np.asarray(yes if yes is not None else [False] * num)
    return ScoreMatrix(names, tuple(domains), tuple(groups or names), is_yes, clusters, np.zeros(num, dtype=np.int64))


@pytest.mark.parametrize("protocol", [protocol.name for protocol in PROTOCOLS])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_published_measure_is_a_sum_over_its_questions(name: str, protocol: str, tmp_path: Path) -> None:
    layout = next(iter(LAYOUTS[name].values()))
    places = Places(paths={name: str(layout(tmp_path / "data"))}, cache=tmp_path / "cache")
    benchmark = open_benchmark(name, protocol=protocol, places=places)
    for seed, skill in ((0, 0.5), (1, 0.8), (2, 1.0)):
        answers = answered(benchmark, seed, skill)
        sheet = make_score_matrix(benchmark, answers)
        scores = scores_of(benchmark, sheet, answers)
        for row in benchmark.summarize(answers):
            for measure, value in row.measures.items():
                found = find_statistics(measure, row.domain, sheet, scores, value.value)
                assert found or (name, protocol) in WITHOUT_TERMS, (row.domain, measure)
                for form, statistic in found.items():
                    again = statistic_of(form, measure, row.domain, sheet, scores)
                    assert again is not None and again.value() == statistic.value()


def test_the_demos_columns_are_sums_over_its_questions(demo_folder: Path) -> None:
    benchmark = open_demo_benchmark(demo_folder, limit=None, min_compared=0)
    answers = answered(benchmark, 0, 0.6)
    sheet = make_score_matrix(benchmark, answers)
    assert len(sheet.ids) == len(benchmark.pairs)
    scores = scores_of(benchmark, sheet, answers)
    rows = [row for row in benchmark.summarize(answers) if row.kind is None]
    assert len(rows) == 4
    for row in rows:
        for measure, value in row.measures.items():
            found = find_statistic(measure, row.domain, sheet, scores, value.value)
            assert found is not None, (row.domain, measure)
            assert found.num_questions == value.num_questions


def test_a_value_that_no_known_sum_gives_has_no_statistic() -> None:
    sheet, scores = sheet_of(["all", "all"]), {"accuracy": np.asarray([1.0, 0.0])}
    assert find_statistic("accuracy", "all", sheet, scores, 0.5) is not None
    assert find_statistic("accuracy", "all", sheet, scores, 0.6) is None
    assert find_statistic("other", "all", sheet, scores, 0.5) is None
    assert find_statistic("accuracy", "nowhere", sheet, scores, 0.5) is None


def test_f1_by_hand() -> None:
    # Gold yes, yes, no, no; said yes, no, yes, no: one of each.
    sheet = sheet_of(["all"] * 4, yes=[True, True, False, False])
    scores = {"pope_accuracy": np.asarray([1.0, 0.0, 0.0, 1.0])}
    for measure, value in (("pope_f1", 0.5), ("pope_precision", 0.5), ("pope_recall", 0.5), ("pope_yes_ratio", 0.5)):
        assert find_statistic(measure, "all", sheet, scores, value) is not None
    # An unreadable answer to a question whose truth is no is no "yes".
    scores = {"vsr_accuracy": np.asarray([1.0, 0.0, 0.0, 0.0]), "vsr_unreadable": np.asarray([0.0, 0.0, 1.0, 0.0])}
    found = find_statistic("vsr_precision", "all", sheet, scores, 0.5)
    assert found is not None and found.terms_NK.sum(axis=0).tolist() == [1.0, 2.0, 2.0, 4.0]


def test_a_circular_question_counts_only_if_all_its_rotations_are_right() -> None:
    sheet = sheet_of(["all"] * 5, groups=["a", "a", "b", "b", "c"])
    scores = {"mmbench_rotation_accuracy": np.asarray([1.0, 1.0, 1.0, 0.0, 1.0])}
    found = find_statistic("mmbench_circular", "all", sheet, scores, 2 / 3)
    assert found is not None and found.num_questions == 3


def test_mme_is_accuracy_and_accuracy_over_images_for_each_subtask() -> None:
    # Existence: 3 of 4 right, one image of two whole; OCR (perception too): all right. Code: cognition, none right.
    domains = ["existence"] * 4 + ["OCR"] * 2 + ["code_reasoning"] * 2
    sheet = sheet_of(domains, groups=["a", "a", "b", "b", "c", "c", "d", "d"])
    scores = {"mme_accuracy": np.asarray([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0])}
    assert find_statistic("mme_perception_score", "all", sheet, scores, 75 + 50 + 200) is not None
    assert find_statistic("mme_cognition_score", "all", sheet, scores, 0.0) is not None
    assert find_statistic("mme_score", "existence", sheet, scores, 125.0) is not None


def test_the_overall_of_tiny_lvlm_is_a_sum_of_percentages() -> None:
    sheet = sheet_of(["a", "a", "b"])
    scores = {"tiny_lvlm_word_match": np.asarray([1.0, 0.0, 1.0])}
    assert find_statistic("tiny_lvlm_overall", "all", sheet, scores, 150.0) is not None


def test_nothing_to_divide_by_is_nan_for_a_mean_and_zero_for_a_ratio_of_counts() -> None:
    assert np.isnan(ratio(np.zeros(2)))
    assert all(combine(np.zeros(4)) == 0 for combine in YES_NO.values())
