"""One's own questions as a benchmark: what is closed, what is asked twice, its baselines and its prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llava_moe.data.conversation import Turn
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.eval.baselines import TWIN_MARK, is_twin
from llava_moe.eval.benchmark import Answer, Question
from llava_moe.eval.generation.endpoint import question_messages
from llava_moe.eval.generation.generate import question_turns, trained_prompts
from llava_moe.eval.gray_images import BlindBenchmark
from llava_moe.eval.headline import HeadlineBenchmark
from llava_moe.eval.own.benchmark import OwnBenchmark, open_own, token_f1
from llava_moe.eval.own.reading import read_own_file
from llava_moe.eval.protocol import LLAVA_1_5, LLAVA_MOLE
from llava_moe.eval.question_hash import question_hash
from llava_moe.eval.results.comparison import Comparison, compare_benchmark
from llava_moe.eval.results.comparison_table import comparison_table
from llava_moe.eval.results.scored_run import read_scored
from llava_moe.eval.results.table import domain_table
from tests.eval.own.files import asking, paint, write_lines, write_questions
from tests.eval.scored_runs import guesser, write_scored


@pytest.fixture
def benchmark(tmp_path: Path) -> OwnBenchmark:
    return open_own(str(write_questions(tmp_path / "questions.jsonl")), None, LLAVA_1_5)


def answers_by(benchmark: OwnBenchmark, predict: Callable[[Question], str]) -> dict[str, Answer]:
    predicted = {question.id: (question, predict(question)) for question in benchmark.questions()}
    return {
        name: Answer(name, text, question.references, benchmark.score(question, text))
        for name, (question, text) in predicted.items()
    }


def values(benchmark: OwnBenchmark, predict: Callable[[Question], str], domain: str = "all") -> dict[str, float]:
    (row,) = [r for r in benchmark.summarize(answers_by(benchmark, predict)) if (r.domain, r.kind) == (domain, None)]
    return {name: measure.value for name, measure in row.measures.items()}


def test_a_question_is_closed_by_its_options_or_by_an_answer_that_several_share(benchmark: OwnBenchmark) -> None:
    closed = {pair.id: pair.closed for pair in benchmark.asked_twice.pairs}
    # Of each domain's three colours two are alike.
    assert [name for name, is_closed in closed.items() if is_closed] == ["q0", "q2", "q3", "q5", "listed"]


def test_closed_questions_are_asked_again_beside_another_image_of_the_domain(benchmark: OwnBenchmark) -> None:
    twins = {one.id.partition(TWIN_MARK)[0]: one for one in benchmark.questions() if is_twin(one.id)}
    right = {one.id: one for one in benchmark.questions() if not is_twin(one.id)}
    assert [*twins] == ["q0", "q2", "q3", "q5"] and len(right) == 8
    for name, twin in twins.items():
        assert (twin.prompt, twin.references, twin.domain) == (
            right[name].prompt,
            right[name].references,
            right[name].domain,
        )
        assert twin.images != right[name].images
        assert {int(Path(str(image)).stem) // 3 for image in (*twin.images, *right[name].images)} == {int(name[1]) // 3}


def test_the_three_scores_are_of_the_same_questions(benchmark: OwnBenchmark) -> None:
    truth = {str(pair.images[0]): pair.answer for pair in benchmark.asked_twice.pairs[:6]}
    seeing = values(benchmark, lambda one: truth[str(one.images[0])] if "colour" in one.prompt else one.references[0])
    # Both closed questions of a domain have the majority's answer.
    assert seeing["exact_match"] == seeing["majority_answer"] == 1.0 and seeing["gap_over_majority"] == 0.0
    assert seeing["other_image"] < 1.0 and seeing["gap"] == 1.0 - seeing["other_image"]
    assert seeing["exact_match_all"] == seeing["token_f1"] == 1.0
    never_looks = values(benchmark, lambda one: "Red.")
    assert (never_looks["exact_match"], never_looks["other_image"], never_looks["gap"]) == (0.5, 0.5, 0.0)
    assert never_looks["exact_match_all"] == 3 / 8
    # "A red square" holds it: precision 1, recall 1 of 2 (SQuAD leaves articles out).
    assert never_looks["token_f1"] == pytest.approx((3 + 2 / 3) / 8)
    assert values(benchmark, lambda one: "Red.", "photos")["exact_match"] == 1.0


def test_a_file_in_which_nothing_is_asked_twice_is_scored_as_a_whole(tmp_path: Path) -> None:
    records = [asking(f"Number {place}?", ("yes", "no")[place > 2]) for place in range(5)]
    benchmark = open_own(str(write_lines(tmp_path / "q.jsonl", records)), None, LLAVA_1_5)
    assert benchmark.columns == ("exact_match", "token_f1", "majority_answer", "gap_over_majority")
    scored = values(benchmark, lambda one: one.references[0])
    assert scored == {
        "exact_match": 1.0,
        "token_f1": 1.0,
        "majority_answer": 0.6,
        "gap_over_majority": pytest.approx(0.4),
    }
    assert "none is asked twice" in benchmark.notes()[0]
    write_scored(tmp_path / "run", benchmark, lambda one: one.references[0])
    table = domain_table(read_scored(tmp_path / "run", "run", str(tmp_path / "q.jsonl")).result)
    compared = compare_benchmark([read_scored(tmp_path / "run", "run", "q")])
    comparison = Comparison(("run",), (str(tmp_path / "run"),), (compared,), 100, 0)
    assert {row[1] for row in comparison_table(comparison, compared, main=False).rows} >= {"exact match", "token F1"}
    assert table.title == "q: all questions, % (differences in points)" and table.header[2] == "exact match"


def test_the_majority_is_that_of_the_other_splits_where_there_are_some(tmp_path: Path) -> None:
    names = paint(tmp_path, 4)
    trained = [asking("Which?", answer, split="train") for answer in ("b", "b", "a")]
    asked = [asking("<image>Which?", answer, [name], split="test")
             for name, answer in zip(names, ("a", "a", "a", "b"), strict=True)]  # fmt: skip
    both = open_own(str(write_lines(tmp_path / "both.jsonl", [*trained, *asked])), None, LLAVA_1_5)
    alone = open_own(str(write_lines(tmp_path / "alone.jsonl", asked)), None, LLAVA_1_5)
    # The headline is the three that share an answer.
    assert [values(one, lambda one: "a")["majority_answer"] for one in (both, alone)] == [0.0, 1.0]


def test_several_answers_count(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", [asking("Which?", "sofa", references=["couch"])])
    benchmark = open_own(str(path), None, LLAVA_1_5)
    (question,) = benchmark.questions()
    assert [benchmark.score(question, text)["exact_match"] for text in ("Sofa.", "couch", "chair")] == [1, 1, 0]


def test_an_answer_that_is_an_article_counts_by_exact_match() -> None:
    """SQuAD leaves articles out, so that the letter A would be right wherever nothing is said."""
    assert [token_f1(text, ["A"]) for text in ("A", "a.", "", "the", "B")] == [1, 1, 0, 0, 0]
    assert token_f1("red cat", ["A", "a red dog"]) == 0.5


def test_a_limit_draws_of_each_kind_those_asked_twice_first(tmp_path: Path) -> None:
    path = str(write_questions(tmp_path / "questions.jsonl"))
    benchmark = open_own(path, None, LLAVA_1_5, limit=2)
    assert {pair.id for pair in benchmark.asked_twice.pairs} == {"q0", "q2", "q3", "q5"}
    assert benchmark.facts.draw == "limit=2: 4 of 8 questions (2 of each of 2 kinds)"
    assert benchmark.facts.content == open_own(path, None, LLAVA_1_5).facts.content != ""


def test_a_conversation_is_put_as_it_is_trained(tmp_path: Path, encoder: Encoder) -> None:
    """The prompt is what training reads before the answer, to the token; so are pictures between words."""
    names = paint(tmp_path, 2)
    several = asking("Is <image> redder than <image>?", "yes", names)
    talk = asking("What is <image>?", "A square.", names[:1])
    talk["messages"] += [{"role": "user", "content": "And its colour?"}, {"role": "assistant", "content": "Red"}]
    plain = asking("<image>\nWhat colour?", "red", names[:1])
    path = write_lines(tmp_path / "q.jsonl", [several, talk, plain, asking("How many?", "two")])
    benchmark = open_own(str(path), None, LLAVA_1_5)
    write = trained_prompts(encoder)
    for question, record in zip(benchmark.questions(), read_own_file(str(path), None).asked, strict=True):
        encoded = encoder.encode_text(record.conversation)
        answer = np.flatnonzero(encoded.labels != IGNORED)
        # Of the last answer: where the last run of supervised tokens begins.
        begin = answer[np.flatnonzero(np.diff(answer, prepend=-9) > 1)[-1]]
        assert write(question).tolist() == encoded.input_ids[:begin].tolist(), question.id
    assert [len(question.turns) for question in benchmark.questions()] == [1, 3, 0, 0]


def test_a_protocols_sentence_stands_before_the_last_question(tmp_path: Path) -> None:
    names = paint(tmp_path, 2)
    talk = asking("<image>\n<image>\nWhat?", "Two.", names)
    talk["messages"] += [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Both"}]
    path = write_lines(tmp_path / "q.jsonl", [talk, asking("<image>\n<image>\nSame?", "no", names)])
    first, second = open_own(str(path), None, LLAVA_MOLE).questions()
    prefix = LLAVA_MOLE.prefix
    assert [turn.text for turn in first.turns] == ["<image>\n<image>\nWhat?", "Two.", f"{prefix}Which?"]
    assert second.turns == (Turn("user", f"<image>\n<image>\n{prefix}Same?"),)
    assert (first.prompt, first.system) == (f"{prefix}Which?", LLAVA_MOLE.system)


def test_the_blind_baselines_ask_a_conversation_too(tmp_path: Path, encoder: Encoder) -> None:
    names = paint(tmp_path, 2)
    talk = asking("<image>", "A square.", names[:1])
    talk["messages"] += [{"role": "user", "content": "Like <image>\nthis?"}, {"role": "assistant", "content": "Yes"}]
    talk["images"] = names
    benchmark = open_own(str(write_lines(tmp_path / "q.jsonl", [talk])), None, LLAVA_1_5)
    (seen,), (gray,) = benchmark.questions(), BlindBenchmark(benchmark).questions()
    (blind,) = HeadlineBenchmark(benchmark, has_pictures=False).questions()
    assert len({question_hash(one) for one in (seen, gray, blind)}) == 3
    # A turn that was a picture alone leaves with its answer.
    assert question_turns(blind) == [Turn("user", "Like this?")] and len(question_turns(gray)) == 3
    assert encoder.image_token_id not in trained_prompts(encoder)(blind)
    messages = question_messages(seen)
    kinds = [[part["type"] for part in one["content"]] if one["role"] == "user" else one["content"] for one in messages]
    assert kinds == [["image_url"], "A square.", ["image_url", "text"]]
    assert messages[-1]["content"][1]["text"] == "Like \nthis?"


def test_another_conversation_is_another_question() -> None:
    one = Question("q", (), "b?", ("x",), "all", "k", False, turns=(Turn("user", "a?"), Turn("assistant", "c")))
    other = Question("q", (), "b?", ("x",), "all", "k", False, turns=(Turn("user", "a?"), Turn("assistant", "d")))
    assert question_hash(one) != question_hash(other)


def test_two_runs_are_compared_by_pairs(tmp_path: Path) -> None:
    names = paint(tmp_path, 24)
    records = [asking("<image>What colour?", ("red", "blue")[place % 2], [name]) for place, name in enumerate(names)]
    path = write_lines(tmp_path / "mine.jsonl", records)
    benchmark = open_own(str(path), None, LLAVA_1_5)
    folders = [write_scored(tmp_path / f"run{skill}", benchmark, guesser(benchmark, 1, skill)) for skill in (0.2, 0.9)]
    compared = compare_benchmark([read_scored(folder, folder.name, str(path)) for folder in folders])
    row = next(row for row in compared.rows if row.is_main)
    assert (row.measure, row.num_questions) == ("exact_match", 24)
    assert row.cells[1].difference_interval is not None
    assert list(row.baselines) == ["majority", "one answer a domain", "best guess by prompt"]
    other = next(one for one in compared.rows if (one.domain, one.measure) == (row.domain, "majority_answer"))
    assert row.baselines["majority"] == other.cells[0].value
    assert {"token_f1", "exact_match_all", "gap"} <= {one.measure for one in compared.rows}
