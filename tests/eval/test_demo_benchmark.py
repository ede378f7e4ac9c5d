"""The embedded benchmark: which questions it asks, beside which images, and how it sums up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.eval.baselines import TWIN_MARK, is_twin
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark, BenchmarkResult, Question
from llava_moe.eval.metrics import exact_match
from llava_moe.eval.results.table import domain_table, markdown_tables
from llava_moe.eval.tasks import benchmark_summaries, demo, open_benchmark
from llava_moe.eval.tasks.demo import DemoBenchmark, open_demo_benchmark


@pytest.fixture
def benchmark(demo_folder: Path) -> DemoBenchmark:
    return open_demo_benchmark(demo_folder, limit=None)


def answers_by(benchmark: DemoBenchmark, predict: Callable[[Question], str]) -> dict[str, Answer]:
    """The answers of a made-up model, ``predict(question) -> text``."""
    answers = {}
    for question in benchmark.questions():
        prediction = predict(question)
        score = benchmark.score(question, prediction)
        answers[question.id] = Answer(question.id, prediction, question.references, score)
    return answers


def oracle(benchmark: DemoBenchmark) -> Callable[[Question], str]:
    """A model that sees its image perfectly: it answers what is true of the image it is shown."""
    truth = {(pair.images[0], pair.question): pair.answer for pair in benchmark.pairs}
    return lambda question: truth[question.images[0], question.prompt]


def test_every_test_pair_is_asked_alone_and_again_beside_another_image(benchmark: DemoBenchmark) -> None:
    questions = benchmark.questions()
    right = [question for question in questions if not is_twin(question.id)]
    twins = {question.id.split(TWIN_MARK)[0]: question for question in questions if is_twin(question.id)}
    assert len(right) == 3 * 9 * 3 + 1
    assert len({question.id for question in questions}) == len(questions)
    for question in right:
        assert "<image>" not in question.prompt
        if question.kind == "maker":
            assert question.id not in twins
            continue
        twin = twins[question.id]
        assert (twin.prompt, twin.references, twin.domain) == (question.prompt, question.references, question.domain)
        assert twin.images != question.images


def test_questions_are_of_the_test_split_alone(benchmark: DemoBenchmark) -> None:
    assert all("-test-" in question.id for question in benchmark.questions())


def test_questions_do_not_change_from_one_opening_to_the_next(demo_folder: Path, benchmark: DemoBenchmark) -> None:
    assert open_demo_benchmark(demo_folder, limit=None).questions() == benchmark.questions()
    assert open_demo_benchmark(demo_folder, limit=None, seed=1).questions() != benchmark.questions()


def test_a_model_that_sees_beats_both_baselines(benchmark: DemoBenchmark) -> None:
    rows = benchmark.summarize(answers_by(benchmark, oracle(benchmark)))
    for domain in ("general", "documents", "medical"):
        [row] = [row for row in rows if (row.domain, row.kind) == (domain, None)]
        assert row.measures["exact_match"].value == 1.0
        assert row.measures["exact_match"].num_questions == 18, "nine images, two closed questions with other images"
        assert row.measures["other_image"].value < 1.0
        # Every third colour is red, the majority's answer; two thirds of the yes/no answers are no.
        assert row.measures["majority_answer"].value == pytest.approx((3 + 6) / 18)
        assert row.measures["gap"].value == pytest.approx(1.0 - row.measures["other_image"].value)
        assert row.measures["gap_over_majority"].value == pytest.approx(0.5)


def test_a_model_that_never_looks_has_no_gap(benchmark: DemoBenchmark) -> None:
    blind = answers_by(benchmark, lambda question: "red" if "colour" in question.prompt else "no")
    for row in benchmark.summarize(blind):
        assert row.measures["gap"].value == 0.0
        if row.kind is None:
            assert row.measures["gap_over_majority"].value == 0.0


def test_empty_answers_score_nothing(benchmark: DemoBenchmark) -> None:
    for row in benchmark.summarize(answers_by(benchmark, lambda question: "")):
        names = set(row.measures) - {"majority_answer", "gap", "gap_over_majority"}
        assert {name: row.measures[name].value for name in names} == dict.fromkeys(names, 0.0)


def test_each_domain_carries_its_papers_metrics(benchmark: DemoBenchmark) -> None:
    rows = {
        row.domain: row for row in benchmark.summarize(answers_by(benchmark, oracle(benchmark))) if row.kind is None
    }
    headline = set(benchmark.columns) | {"exact_match_all"}
    assert set(rows["general"].measures) == headline
    assert set(rows["documents"].measures) - headline == {"chartqa_relaxed_accuracy", "docvqa_anls"}
    assert set(rows["medical"].measures) - headline == {"pathvqa_closed_accuracy", "pathvqa_open_recall"}
    assert rows["medical"].measures["pathvqa_closed_accuracy"].num_questions == 9
    assert rows["medical"].measures["pathvqa_open_recall"].num_questions == 18
    assert rows["documents"].measures["docvqa_anls"].num_questions == 27
    assert set(rows[ALL_DOMAINS].measures) == headline
    assert rows[ALL_DOMAINS].measures["exact_match"].num_questions == 54
    assert rows["general"].measures["exact_match_all"].num_questions == 28


def test_kinds_have_rows_of_their_own(benchmark: DemoBenchmark) -> None:
    rows = benchmark.summarize(answers_by(benchmark, oracle(benchmark)))
    kinds = {(row.domain, row.kind): row for row in rows if row.kind is not None}
    assert kinds["documents", "number"].closed is False
    assert kinds["general", "colour"].measures["exact_match"].num_questions == 9
    assert ("general", "maker") not in kinds, "no other image carries it, so there is nothing to compare"
    assert any("no other test image" in note for note in benchmark.notes())


def test_the_limit_draws_from_every_kind(demo_folder: Path) -> None:
    benchmark = open_demo_benchmark(demo_folder, limit=2, min_compared=0)
    assert len(benchmark.pairs) == 3 * 3 * 2 + 1
    assert len(open_demo_benchmark(demo_folder, limit=2, min_compared=12).pairs) == 1 + 3 * (12 + 2)


def test_a_limit_is_so_many_of_each_kind_and_says_how_many_that_is() -> None:
    for limit in (1, 3):
        benchmark = open_benchmark("demo", limit=limit)
        assert isinstance(benchmark, DemoBenchmark)
        counts = Counter((pair.domain, pair.kind) for pair in benchmark.pairs)
        assert set(counts.values()) == {limit}
        told = f"limit={limit}: {len(benchmark.pairs)} of {benchmark.num_test_pairs:,} questions"
        assert benchmark.facts.draw == f"{told} ({limit} of each of {len(counts)} kinds)"
        assert benchmark.facts.partial == told
        assert any(told in note for note in benchmark.notes())
        assert told in domain_table(result_of(benchmark)).title and told in markdown_tables(result_of(benchmark))
    smaller = open_benchmark("demo", limit=1)
    assert {question.id for question in smaller.questions()} < {question.id for question in benchmark.questions()}
    assert "up to 500 of each" in open_benchmark("demo", limit=500).facts.draw
    whole = open_benchmark("demo", limit=0)
    assert whole.facts.draw == whole.facts.partial == ""


def result_of(benchmark: Benchmark) -> BenchmarkResult:
    answers = {question.id: Answer(question.id, "", question.references, benchmark.score(question, ""))
               for question in benchmark.questions()}  # fmt: skip
    rows = benchmark.summarize(answers)
    return BenchmarkResult(benchmark.name, "m", benchmark.columns, rows, benchmark.notes(), facts=benchmark.facts)


def test_a_prediction_is_scored_as_the_metric_says(benchmark: DemoBenchmark) -> None:
    question = Question("x#0", (b"",), "Is it red?", ("yes",), "medical", "is red", True)
    assert benchmark.score(question, "Yes.") == {"exact_match": 1.0, "pathvqa_closed_accuracy": 1.0}
    assert benchmark.score(question, "yes and no")["exact_match"] == exact_match("yes and no", ["yes"]) == 0.0
    assert benchmark.score(question, "yes and no")["pathvqa_closed_accuracy"] == 1.0


def test_a_folder_without_data_or_an_unknown_split_is_one_line(tmp_path: Path, demo_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no \*\.parquet in"):
        open_demo_benchmark(tmp_path / "nothing")
    with pytest.raises(UserError, match="train, val, test"):
        open_demo_benchmark(demo_folder, split="dev")


def test_the_demo_is_listed_with_a_sentence_and_opened_by_its_name(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "open_demo_benchmark", lambda **settings: open_demo_benchmark(demo_folder, **settings))
    summaries = benchmark_summaries()
    assert "demo" in summaries
    assert all(summary and "\n" not in summary for summary in summaries.values())
    assert open_benchmark("demo", limit=1).name == "demo"
    assert len(open_benchmark("demo", limit=0).questions()) == len(
        open_demo_benchmark(demo_folder, limit=None).questions()
    )
    with pytest.raises(UserError, match=r"benchmarks: dmo does not exist \(did you mean demo\?\); there are .*demo"):
        open_benchmark("dmo")
