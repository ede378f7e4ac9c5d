"""Every benchmark, found by its file: what it asks is well-formed, and its scores are what it declares."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from llava_moe.data.images.transform import open_image
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark, BenchmarkResult, Question, ScoreRow
from llava_moe.eval.files import headline, read_result, write_result
from llava_moe.eval.protocol import PROTOCOLS
from llava_moe.eval.results.table import all_tables
from llava_moe.eval.tasks import Places, benchmark_names, benchmark_summaries, open_benchmark
from llava_moe.eval.tasks.demo import MIN_COMPARED
from tests.eval.tasks.published import LAYOUTS

# The demo draws on what ships with the package; its baseline answers depend on the draw, not on the model.
CASES = [("demo", "embedded"), *((name, layout) for name, layouts in LAYOUTS.items() for layout in layouts)]
NOT_THE_MODELS = ("majority_answer", "gap_over_majority")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Places]:
    name, layout = request.param
    folder = tmp_path_factory.mktemp(f"{name}-{layout}")
    if name == "demo":
        return name, Places()
    place = LAYOUTS[name][layout](folder / "data")
    return name, Places(paths={name: str(place)}, cache=folder / "cache")


@pytest.fixture(scope="module", params=[protocol.name for protocol in PROTOCOLS])
def benchmark(places: tuple[str, Places], request: pytest.FixtureRequest) -> Benchmark:
    name, where = places
    return open_benchmark(name, protocol=request.param, places=where)


def rows_of(benchmark: Benchmark, predict: Callable[[Question], str]) -> tuple[ScoreRow, ...]:
    answers = {}
    for question in benchmark.questions():
        prediction = predict(question)
        score = benchmark.score(question, prediction)
        assert all(0 <= value <= 1 for value in score.values())
        answers[question.id] = Answer(question.id, prediction, question.references, score)
    return benchmark.summarize(answers)


def test_every_benchmark_has_a_fixture_in_each_layout_it_reads() -> None:
    assert {name for name, _ in CASES} == set(benchmark_names())


def test_questions_are_well_formed(benchmark: Benchmark) -> None:
    questions = benchmark.questions()
    assert len({question.id for question in questions}) == len(questions) > 0
    assert questions == benchmark.questions()
    for question in questions:
        assert question.prompt.strip() == question.prompt != "" and "<image>" not in question.prompt
        assert "{" not in question.prompt and question.references and all(question.references)
        assert question.max_new_tokens >= 1
    assert len({question.decoding for question in questions}) == 1
    for question in questions[::100]:
        assert all(open_image(image).mode == "RGB" for image in question.images) and question.images


def test_the_oracle_and_empty_answers_score_what_is_declared(benchmark: Benchmark) -> None:
    cases = (("oracle", benchmark.oracle, 1.0), ("empty", lambda question: "", 0.0))
    for kind, predict, usual in cases:
        rows = rows_of(benchmark, predict)
        declared = getattr(benchmark.expected, kind)
        [whole] = [row for row in rows if row.domain == ALL_DOMAINS]
        assert set(declared) <= set(whole.measures)
        for name, measure in whole.measures.items():
            if name not in NOT_THE_MODELS:
                assert measure.value == pytest.approx(declared.get(name, usual)), (kind, name)
        assert {row.kind is None for row in rows} >= {True}


def test_results_say_what_a_score_cannot_be_compared_without(benchmark: Benchmark, tmp_path: Path) -> None:
    rows = rows_of(benchmark, lambda question: "yes")
    facts = benchmark.facts
    assert facts.num_questions == len(benchmark.questions())
    assert facts.domain in ("general", "documents", "medical", "all")
    asked = benchmark.questions()[0]
    assert (facts.decoding, facts.max_new_tokens, facts.system) == (asked.decoding, asked.max_new_tokens, asked.system)
    result = BenchmarkResult(benchmark.name, "abc", benchmark.columns, rows, benchmark.notes(), 1.0, facts)
    write_result(tmp_path, result)
    assert read_result(tmp_path, benchmark.name) == result
    kept = headline(result)
    assert {"protocol", "prompt", "decoding", "scorer", "data", "num_questions"} <= set(kept)
    whole = next(row for row in rows if row.domain == ALL_DOMAINS)
    assert set(benchmark.columns) <= set(whole.measures)
    assert all(note.strip() for note in benchmark.notes()) and benchmark.notes()
    assert all_tables(result)


def test_every_benchmark_says_in_a_line_what_it_is() -> None:
    assert set(benchmark_summaries()) == set(benchmark_names())
    assert all(benchmark_summaries().values())


def test_the_embedded_set_compares_at_least_300_closed_questions_a_domain() -> None:
    rows = rows_of(open_benchmark("demo"), lambda question: "")
    compared = {row.domain: row.measures["exact_match"].num_questions for row in rows if row.kind is None}
    assert {"general", "documents", "medical"} < set(compared)
    assert min(compared.values()) >= MIN_COMPARED


def test_the_images_of_the_embedded_set_open() -> None:
    for question in open_benchmark("demo").questions()[::100]:
        for image in question.images:
            assert isinstance(image, bytes)
            Image.open(io.BytesIO(image)).verify()
