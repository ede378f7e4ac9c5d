"""What the pages make of answers: sums, sets, rotations and pairs, on cases worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pytest

from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark, Measure, Question
from llava_moe.eval.published_benchmark import Item
from llava_moe.eval.results.table import shown
from llava_moe.eval.tasks import Places, open_benchmark
from llava_moe.eval.tasks.scienceqa_img import read_letter, score_lmms_eval
from tests.eval.tasks.published import LAYOUTS, MIXLORA, write_mixlora

Open = Callable[..., Benchmark]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_one(name: str, layout: str, protocol: str = "llava_1_5", **settings: int) -> Benchmark:
        folder = tmp_path / f"{name}-{layout}"
        place = folder if folder.exists() else LAYOUTS[name][layout](folder)
        places = Places(paths={name: str(place)}, cache=tmp_path / "cache")
        return open_benchmark(name, protocol=protocol, places=places, **settings)

    return open_one


def answer_all(benchmark: Benchmark, predict: Callable[[Question], str]) -> dict[str, Answer]:
    return {
        question.id: Answer(
            question.id, predict(question), question.references, benchmark.score(question, predict(question))
        )
        for question in benchmark.questions()
    }


def measures(benchmark: Benchmark, predict: Callable[[Question], str], part: str = ALL_DOMAINS) -> Mapping[str, float]:
    rows = benchmark.summarize(answer_all(benchmark, predict))
    [row] = [row for row in rows if row.domain == part]
    return {name: measure.value for name, measure in row.measures.items()}


def test_tiny_lvlm_overall_is_the_sum_of_five_accuracies(opened: Open) -> None:
    # Two questions an ability: all right in the first three, one of two in the fourth, none in the fifth.
    benchmark = opened("tiny_lvlm", "folders")
    wrong = {"Visual_Commonsense/1", "Object_Hallucination/0", "Object_Hallucination/1"}
    found = measures(benchmark, lambda question: "" if question.id in wrong else question.references[0])
    assert found == {"tiny_lvlm_overall": 350.0, "tiny_lvlm_word_match": 0.7}
    assert shown("tiny_lvlm_overall", Measure(306.5, 2450)) == "306.5"


def test_tiny_lvlm_takes_any_of_several_golds(opened: Open) -> None:
    benchmark = opened("tiny_lvlm", "folders")
    asked = next(question for question in benchmark.questions() if question.id == "Visual_Perception/0")
    assert asked.references == ("tabby", "tabby cat")
    assert benchmark.score(asked, "It is a tabby cat.") == {"tiny_lvlm_word_match": 1.0}


def test_chartqa_reports_both_parts_and_the_mean_over_questions(opened: Open) -> None:
    for layout in ("zip", "lmms_lab", "m4_address"):
        benchmark = opened("chartqa", layout)
        rows = benchmark.summarize(answer_all(benchmark, lambda question: "norway"))
        found = {row.domain: row.measures["chartqa_relaxed_accuracy"].value for row in rows}
        assert found == {"human": 0.5, "augmented": 0.0, "all": 0.25}


def test_pathvqa_scores_open_and_closed_questions_apart(opened: Open) -> None:
    benchmark = opened("pathvqa", "hub")
    found = measures(benchmark, lambda question: "normal tissue")
    # "normal" holds "no": LLaVA-Med reads it as an answer to the question whose gold is no.
    assert (found["pathvqa_closed_accuracy"], found["pathvqa_closed_accuracy_strict"]) == (0.5, 0.0)
    assert found["pathvqa_closed_unreadable"] == 1.0
    assert found["pathvqa_open_recall"] == 0.0
    rows = benchmark.summarize(answer_all(benchmark, lambda question: "yes"))
    counts = {row.domain: max(one.num_questions for one in row.measures.values()) for row in rows}
    assert counts == {"open": 2, "closed": 2, "all": 2}


def test_pathvqa_says_which_of_its_variants_it_read(opened: Open) -> None:
    benchmark = opened("pathvqa", "hub")
    known = benchmark.page.known  # type: ignore[attr-defined]
    assert "flaviagiammarino" in known[6719] and "original" in known[6761]
    assert benchmark.facts.data == "4 questions (no published variant of this size is known): open 2, closed 2"


def test_pope_is_the_mean_of_its_sets_by_the_official_rule(opened: Open) -> None:
    benchmark = opened("pope", "official")
    right = {"random/1", "random/2", "popular/1"}  # popular/2 and both adversarial ones are wrong

    def predict(question: Question) -> str:
        flipped = "no" if question.references[0] == "yes" else "yes"
        return question.references[0] if question.id in right else flipped

    rows = benchmark.summarize(answer_all(benchmark, predict))
    f1 = {row.domain: row.measures["pope_f1"].value for row in rows}
    # popular: both answered yes, precision 1/2 and recall 1; adversarial: nothing right.
    assert f1 == pytest.approx({"random": 1.0, "popular": 2 / 3, "adversarial": 0.0, "all": 5 / 9})


def test_pope_under_lmms_eval_wants_the_bare_word_and_counts_the_labels_yes(opened: Open) -> None:
    predict = {"yes": "Yes.", "no": "no"}
    official, exact = (opened("pope", "lmms_lab", protocol) for protocol in ("llava_1_5", "lmms_eval"))
    assert measures(official, lambda one: predict[one.references[0]])["pope_accuracy"] == 1.0
    found = measures(exact, lambda one: predict[one.references[0]])
    # "Yes." is neither: no yes is left, and recall leaves the unread answers out of its denominator.
    assert found == {
        **{"pope_accuracy": 0.5, "pope_f1": 0.0, "pope_precision": 0.0, "pope_recall": 0.0, "pope_yes_ratio": 0.5}
    }
    some = measures(exact, lambda one: "yes" if one.id == "random/1" else "Maybe")
    assert some["pope_recall"] == 1.0


def test_mme_adds_accuracy_and_pairs_of_each_subtask(opened: Open) -> None:
    benchmark = opened("mme", "official")
    found = measures(benchmark, lambda question: "Yes")
    # One of each pair is right: 50 a subtask and no pair.
    assert found == {"mme_perception_score": 500.0, "mme_cognition_score": 200.0, "mme_accuracy": 0.5}
    assert measures(benchmark, lambda question: "Yes", "count") == {"mme_score": 50.0, "mme_accuracy": 0.5}
    assert measures(benchmark, lambda question: question.references[0], "OCR")["mme_score"] == 200.0


def test_mme_under_lmms_eval_strips_first(opened: Open) -> None:
    said = {"Yes": "  y.", "No": " No"}
    official, stripped = (opened("mme", "lmms_lab", protocol) for protocol in ("llava_1_5", "lmms_eval"))
    assert measures(official, lambda question: said[question.references[0]])["mme_accuracy"] == 0.5
    assert measures(stripped, lambda question: said[question.references[0]])["mme_perception_score"] == 2000.0


def test_mmbench_counts_a_question_only_if_every_rotation_is_right(opened: Open) -> None:
    benchmark = opened("mmbench", "tsv")
    slip = "1000241"  # one of the four rotations of question 241
    found = measures(benchmark, lambda one: "E" if one.id == slip else one.references[0])
    assert found == {"mmbench_circular": 0.5, "mmbench_rotation_accuracy": pytest.approx(5 / 6)}
    # "A" is right in one rotation of either question.
    assert measures(benchmark, lambda one: "A")["mmbench_circular"] == 0.0
    assert measures(benchmark, lambda one: "a red kite")["mmbench_circular"] == 1.0


def test_rotations_share_the_image_that_their_first_row_carries(opened: Open) -> None:
    images = [cast(str, question.images[0]) for question in opened("mmbench", "tsv").questions()]
    assert len(images) == 6 and len(set(images)) == 2
    assert [*map(Path, {*images})] and all(Path(str(image)).is_file() for image in images)


def test_vsr_and_snli_ve_want_exactly_one_label(opened: Open) -> None:
    found = measures(opened("vsr", "jsonl"), lambda question: "Yes, no.")
    assert (found["vsr_accuracy"], found["vsr_unreadable"], found["vsr_f1"]) == (0.0, 1.0, 0.0)
    found = measures(opened("vsr", "jsonl"), lambda question: "Yes, it is.")
    assert found["vsr_accuracy"] == 0.5 and found["vsr_f1"] == pytest.approx(2 / 3)
    found = measures(opened("snli_ve", "jsonl"), lambda question: "It is an entailment, not neutral.")
    assert (found["snli_ve_accuracy"], found["snli_ve_unreadable"]) == (0.0, 1.0)
    found = measures(opened("snli_ve", "parquet"), lambda question: "Entailment.")
    assert found["snli_ve_accuracy"] == pytest.approx(1 / 3)


def test_class_names_have_blanks_and_digits_have_words(opened: Open) -> None:
    hundred = opened("cifar100", "binary").page.read.keywords["names"]  # type: ignore[attr-defined]
    assert len(hundred) == 100 and hundred[1] == ("aquarium fish",) and hundred[99] == ("worm",)
    benchmark = opened("mnist", "idx")
    for said in ("It is a 3.", "three"):
        assert benchmark.score(benchmark.questions()[0], said)["classification_has_word"] == 1.0


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("B. otter", "B"),
        ("The answer is C.", "C"),
        ("so The answer is C", "C"),
        ("C) otter", "FAILED"),
        ("b", "FAILED"),
        ("", "FAILED"),
        ("B\n", "B"),
        ("AB", "FAILED"),
    ],
)
def test_scienceqa_reads_letters_as_llavas_script_does(said: str, letter: str) -> None:
    assert read_letter(said) == letter


def test_scienceqa_under_lmms_eval_wants_the_letter_or_a_full_stop_behind_it() -> None:
    item = Item("1", (), {}, ("B",))
    expected = {"B": 1.0, "B.": 1.0, "B. otter": 1.0, "The answer is B": 0.0, "b": 0.0, "": 0.0}
    assert {said: score_lmms_eval(item, said)["scienceqa_accuracy"] for said in expected} == expected


def test_vqav2_votes_and_textvqa_lower_cases(opened: Open) -> None:
    benchmark = opened("vqav2", "official")
    scores = {one.id: benchmark.score(one, "2")["vqav2_accuracy"] for one in benchmark.questions()}
    # Four say 2 and three say two, which reads as 2.
    assert scores == {"262148000": 0.0, "262148001": 0.0, "393225002": 1.0}
    benchmark = opened("textvqa", "official")
    assert benchmark.score(benchmark.questions()[1], "Exit Only")["textvqa_accuracy"] == pytest.approx(0.9)


def test_a_split_without_answers_is_written_for_its_server_and_not_scored(tmp_path: Path) -> None:
    place = LAYOUTS["docvqa"]["rrc"](tmp_path / "data")
    places = Places(paths={"docvqa": f"{place}/spdocvqa_qas/test_v1.0.json"})
    benchmark = open_benchmark("docvqa", places=places)
    answers = answer_all(benchmark, lambda question: f"said {question.id}")
    assert benchmark.summarize(answers) == () and all(answer.score == {} for answer in answers.values())
    submission = benchmark.submission(answers)
    assert submission is not None and submission.name == "docvqa.submission.json"
    assert json.loads(submission.text) == [
        {"questionId": 101, "answer": "said 101"},
        {"questionId": 102, "answer": "said 102"},
    ]


def test_scored_benchmarks_write_no_submission(opened: Open) -> None:
    benchmark = opened("docvqa", "rrc")
    assert benchmark.submission(answer_all(benchmark, lambda question: "x")) is None


def test_llava_mole_puts_duess_anls_first(opened: Open) -> None:
    assert opened("docvqa", "rrc", "llava_mole").columns[0] == "docvqa_anls_due"
    assert opened("docvqa", "rrc").columns[0] == "docvqa_anls"


@pytest.mark.parametrize(("name", "limit", "expected"), [("mme", 1, 28), ("mmbench", 1, None), ("pope", 1, 3)])
def test_a_draw_keeps_rotations_and_pairs_together(opened: Open, name: str, limit: int, expected: int | None) -> None:
    benchmark = opened(name, {"mme": "official", "mmbench": "tsv", "pope": "official"}[name], limit=limit, seed=1)
    asked = benchmark.questions()
    assert len(asked) == expected if expected else len(asked) in (2, 4)
    again = opened(name, {"mme": "official", "mmbench": "tsv", "pope": "official"}[name], limit=limit, seed=1)
    assert asked == again.questions()
    num_all = benchmark.num_read  # type: ignore[attr-defined]
    assert any("Drawn by" in note for note in benchmark.notes()) == (len(asked) < num_all)
    told = f"limit={limit}: {len(asked):,} of {num_all:,} questions" if len(asked) < num_all else ""
    assert benchmark.facts.partial == told
    assert ("what belongs together" in benchmark.facts.draw) == (name != "pope" and bool(told))


@pytest.mark.parametrize("name", sorted(MIXLORA))
def test_mixloras_own_files_are_asked_as_they_are(name: str, tmp_path: Path) -> None:
    places = Places(paths={name: str(write_mixlora(name, tmp_path))})
    benchmark = open_benchmark(name, protocol="mixlora", places=places)
    prompts = [prompt.replace("[Options]", "Options") for lines in MIXLORA[name].values() for prompt, _ in lines]
    assert sorted(question.prompt for question in benchmark.questions()) == sorted(prompts)
    whole = measures(benchmark, benchmark.oracle)
    assert whole[benchmark.columns[0]] == 1.0
    assert benchmark.facts.decoding.temperature == 0.2 and benchmark.facts.max_new_tokens == 1024
