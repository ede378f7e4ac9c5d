"""Every benchmark, found by its file: what it asks is well-formed, and its scores reach both ends."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from llava_moe.eval.benchmark import Answer, Benchmark, Question
from llava_moe.eval.table import DIFFERENCES
from llava_moe.eval.tasks import benchmark_names, benchmark_summaries, open_benchmark
from llava_moe.eval.tasks.demo import MIN_COMPARED

NOT_THE_MODELS = DIFFERENCES | {"majority_answer"}


@pytest.fixture(scope="module", params=benchmark_names())
def benchmark(request: pytest.FixtureRequest) -> Benchmark:
    return open_benchmark(request.param)


def values_of(benchmark: Benchmark, predict: Callable[[Question], str]) -> list[float]:
    answers = {}
    for question in benchmark.questions():
        prediction = predict(question)
        score = benchmark.score(question, prediction)
        answers[question.id] = Answer(question.id, prediction, question.references, score)
    rows = benchmark.summarize(answers)
    assert {row.kind is None for row in rows} >= {True}
    return [measure.value for row in rows for name, measure in row.measures.items() if name not in NOT_THE_MODELS]


def test_questions_are_well_formed(benchmark: Benchmark) -> None:
    questions = benchmark.questions()
    assert len({question.id for question in questions}) == len(questions) > 0
    for question in questions:
        assert question.prompt.strip() and question.references and all(question.references)
        assert "<image>" not in question.prompt
    for question in questions[::100]:
        for image in question.images:
            Image.open(io.BytesIO(image) if isinstance(image, bytes) else image).verify()


def test_the_references_themselves_score_the_maximum(benchmark: Benchmark) -> None:
    assert set(values_of(benchmark, lambda question: question.references[0])) == {1.0}


def test_empty_answers_score_the_minimum(benchmark: Benchmark) -> None:
    assert set(values_of(benchmark, lambda question: "")) == {0.0}


def test_every_benchmark_says_in_a_line_what_it_is() -> None:
    assert set(benchmark_summaries()) == set(benchmark_names())
    assert all(benchmark_summaries().values())


def test_the_embedded_set_compares_at_least_300_closed_questions_a_domain() -> None:
    rows = open_benchmark("demo")
    answers = {
        question.id: Answer(question.id, "", question.references, rows.score(question, ""))
        for question in rows.questions()
    }
    compared = {
        row.domain: row.measures["exact_match"].num_questions for row in rows.summarize(answers) if row.kind is None
    }
    assert {"general", "documents", "medical"} < set(compared)
    assert min(compared.values()) >= MIN_COMPARED
