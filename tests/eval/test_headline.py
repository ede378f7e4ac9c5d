"""The headline's questions alone, beside their own picture or beside none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_moe.eval.baselines import TWIN_MARK, is_twin
from llava_moe.eval.benchmark import Answer, Question
from llava_moe.eval.headline import HeadlineBenchmark
from llava_moe.eval.tasks.demo import DemoBenchmark, open_demo_benchmark
from tests.eval.scored_runs import guesser


@pytest.fixture
def whole(demo_folder: Path) -> DemoBenchmark:
    return open_demo_benchmark(demo_folder, limit=None)


def test_it_asks_the_closed_questions_that_another_image_carries_once_and_in_order(whole: DemoBenchmark) -> None:
    twinned = {question.id.split(TWIN_MARK)[0] for question in whole.questions() if is_twin(question.id)}
    wanted = [one for one in whole.questions() if one.id in twinned and one.closed]
    assert list(HeadlineBenchmark(whole).questions()) == wanted
    # Three domains of nine images with two closed questions each; the open one and the lonely one are left out.
    assert len(wanted) == 3 * 9 * 2


def test_without_pictures_only_the_words_are_left(whole: DemoBenchmark) -> None:
    seeing, unseeing = HeadlineBenchmark(whole), HeadlineBenchmark(whole, has_pictures=False)
    assert unseeing.questions() == tuple(replace(one, images=()) for one in seeing.questions())
    assert unseeing.facts.data.endswith("no picture shown")
    assert seeing.facts.num_questions == unseeing.facts.num_questions == 54


def test_its_rows_are_the_whole_benchmarks_for_the_same_answers(whole: DemoBenchmark) -> None:
    predict = guesser(whole, 1, 0.5)
    answers = {}
    for question in whole.questions():
        text = predict(question)
        answers[question.id] = Answer(question.id, text, question.references, whole.score(question, text))
    for row in HeadlineBenchmark(whole).summarize(answers):
        there = next(one for one in whole.summarize(answers) if (one.domain, one.kind) == (row.domain, None))
        assert row.measures == {"exact_match": there.measures["exact_match"]}


def test_a_benchmark_without_other_images_is_asked_and_summed_up_whole(whole: DemoBenchmark) -> None:
    class Plain:
        columns: tuple[str, ...]
        name, columns, facts = "plain", ("exact_match", "second"), whole.facts

        def questions(self) -> tuple[Question, ...]:
            return tuple(one for one in whole.questions() if not is_twin(one.id))

        def score(self, question: Question, prediction: str) -> Any:
            return whole.score(question, prediction)

        def summarize(self, answers: object) -> tuple[str, ...]:
            return ("rows",)

    asked = HeadlineBenchmark(Plain())  # type: ignore[arg-type]
    assert asked.questions() == Plain().questions()
    assert asked.columns == ("exact_match", "second")
    summed_up: Any = asked.summarize({})
    assert summed_up == ("rows",)
    assert asked.is_by_question
    Plain.columns = ("a_sum_over_all",)
    assert not asked.is_by_question
