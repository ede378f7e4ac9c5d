"""The metrics against hand-worked cases of their reference implementations, and properties that hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.eval import metrics

TEXTS = st.text(max_size=40)
ONE_REFERENCE = [
    metrics.exact_match,
    metrics.squad_exact_match,
    metrics.squad_f1,
    metrics.chartqa_relaxed_accuracy,
    metrics.docvqa_anls,
    metrics.docvqa_anls_due,
    metrics.pathvqa_closed_accuracy,
    metrics.pathvqa_open_recall,
    metrics.pathvqa_open_f1,
    metrics.vqav2_accuracy,
    metrics.textvqa_accuracy,
    metrics.tiny_lvlm_word_match,
    metrics.classification_has_word,
    metrics.classification_exact,
]
MANY_REFERENCES = [metric for metric in ONE_REFERENCE if "pathvqa" not in metric.__name__]
BEST_REFERENCE = [
    metric for metric in MANY_REFERENCES if "vqav2" not in metric.__name__ and "textvqa" not in metric.__name__
]


def name_of(metric) -> str:
    return metric.__name__


@pytest.mark.parametrize("metric", ONE_REFERENCE, ids=name_of)
@given(prediction=TEXTS, reference=TEXTS)
def test_scores_lie_between_nought_and_one_for_any_text(metric, prediction: str, reference: str) -> None:
    score = metric(prediction, [reference])
    assert isinstance(score, float)
    assert 0.0 <= score <= 1.0


@pytest.mark.parametrize("metric", BEST_REFERENCE, ids=name_of)
@given(prediction=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_best_reference_counts(metric, prediction: str, references: list[str]) -> None:
    kept = list(references)
    assert metric(prediction, references) == max(metric(prediction, [reference]) for reference in references)
    assert references == kept, "a metric must not change its references"


@pytest.mark.parametrize("metric", ONE_REFERENCE, ids=name_of)
@pytest.mark.parametrize("references", [[], "a text instead of a list"])
def test_references_must_be_a_list_that_holds_something(metric, references) -> None:
    with pytest.raises(ValueError, match="references"):
        metric("yes", references)


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("Yes.", "yes", 1),
        (" yes ", "Yes", 1),
        ("yes..", "yes", 0),
        ("yes, it is", "yes", 0),
        ("STRASSE", "straße", 1),
        ("3.5", "3.5", 1),
        ("", "", 1),
        (".", "", 1),
        ("", "yes", 0),
        ("a bar", "bar", 0),
    ],
)
def test_exact_match_forgives_case_blanks_and_one_full_stop(prediction: str, reference: str, score: int) -> None:
    assert metrics.exact_match(prediction, [reference]) == score


@pytest.mark.parametrize(
    ("prediction", "references", "em", "f1"),
    [
        ("the cat", ["cat"], 1, 1),
        ("The Cat!", ["a cat."], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("", ["the"], 1, 1),
        ("", ["cat"], 0, 0),
        ("cat", [""], 0, 0),
        ("left lower lobe", ["right lobe", "lower left lobe"], 0, 1),
        ("“cat”", ["cat"], 0, 0),
    ],
)
def test_squad_scores(prediction: str, references: list[str], em: int, f1: float) -> None:
    assert metrics.squad_exact_match(prediction, references) == em
    assert metrics.squad_f1(prediction, references) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("10.5", "10", 1),
        ("10.51", "10", 0),
        ("9.5", "10", 1),
        ("-10", "10", 0),
        ("10%", "0.1", 1),
        ("10 %", "10%", 1),
        ("10%%", "0.1", 1),
        ("10", "10%", 0),
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("0.001", "0", 0),
        ("1,000", "1000", 0),
        ("1,000", "1,000", 1),
        ("$5", "5", 0),
        ("5 kg", "5", 0),
        ("1950", "2000", 1),
        ("Yes.", "Yes", 0),
        ("YES", "yes", 1),
        (" yes\n", "yes", 1),
        ("yes", " yes", 0),
        ("nan", "5", 0),
        ("inf", "inf", 0),
        ("", "", 1),
        ("%", "%", 1),
        ("Ünïcode", "ünïcode", 1),
    ],
)
def test_chartqa_relaxed_accuracy(prediction: str, reference: str, score: int) -> None:
    assert metrics.chartqa_relaxed_accuracy(prediction, [reference]) == score


@pytest.mark.parametrize(
    ("prediction", "references", "ours", "due"),
    [
        ("Total", ["total"], 1, 1),
        ("ab", ["ac"], 0.5, 0),
        ("abcd", ["abce"], 0.75, 0.75),
        ("abc", ["xyz"], 0, 0),
        ("a  b", ["a b"], 1, 0.75),
        ("", [""], 1, 1),
        ("", ["a"], 0, 0),
        ("1,000", ["1000", "1,000"], 1, 1),
        ("line\nbreak", ["linebreak"], 0.9, 1),
        ("ﬁx", ["FIX"], 1 - 2 / 3, 1),
    ],
)
def test_the_two_anls_scorers(prediction: str, references: list[str], ours: float, due: float) -> None:
    expected = ours if ours >= 0.5 else 0
    assert metrics.docvqa_anls(prediction, references) == pytest.approx(expected)
    assert metrics.docvqa_anls_due(prediction, references) == pytest.approx(due)


def test_anls_divides_by_the_length_of_the_raw_texts() -> None:
    # One edit between "a b" and "a c"; the raw reference is 5 characters long: 1 - 1/5, not 1 - 1/3.
    assert metrics.docvqa_anls("a b", ["a   c"]) == pytest.approx(1 - 1 / 5)


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("yes", "yes", 1),
        ("No.", "no", 1),
        ("normal", "no", 1),
        ("nodules", "no", 1),
        ("cannot tell", "no", 1),
        ("Yes, there is no lesion", "yes", 1),
        ("Yes, there is no lesion", "no", 1),
        ("none", "no", 0),
        ("I think so", "yes", 0),
        ("", "no", 0),
        ("eyes", "yes", 1),
        ("the lung", "lung", 0),
    ],
)
def test_pathvqa_closed_accuracy_looks_for_substrings(prediction: str, reference: str, score: int) -> None:
    assert metrics.pathvqa_closed_accuracy(prediction, [reference]) == score


@pytest.mark.parametrize(
    ("prediction", "reference", "recall", "f1"),
    [
        ("left lung", "lung", 1, 2 * 0.5 / 1.5),
        ("lung", "left lung", 0.5, 2 * 0.5 / 1.5),
        ("lung lung lung", "left lung", 3 / 4, 2 * 0.75 / 1.75),
        ("lung", "lung lung", 1, 1),
        ("the two", "2", 1, 1),
        ("heart", "lung", 0, 0),
        ("", "lung", 0, 0),
        ("lung", "the", 0, 0),
        ("the", "the", 0, 0),
        ("H&E", "h&e", 1, 1),
    ],
)
def test_pathvqa_open_scores_count_the_predictions_tokens(
    prediction: str, reference: str, recall: float, f1: float
) -> None:
    assert metrics.pathvqa_open_recall(prediction, [reference]) == pytest.approx(recall)
    assert metrics.pathvqa_open_f1(prediction, [reference]) == pytest.approx(f1)


def test_pathvqa_takes_one_reference() -> None:
    with pytest.raises(ValueError, match="one reference"):
        metrics.pathvqa_closed_accuracy("yes", ["yes", "no"])


@pytest.mark.parametrize(
    ("prediction", "parsed"),
    [
        ("Yes", "Yes"),
        ("no!", "No"),
        ("Yes, there is no lesion", "Unknown"),
        ("normal", "Unknown"),
        ("", "Unknown"),
        ("(yes)", "Yes"),
        ("It is: yes.", "Yes"),
        ("no-one", "No"),
        ("cannot", "Unknown"),
        ("NO\n", "No"),
        ("." * 40 + " no", "No"),
        ("no" + "." * 40, "Unknown"),
    ],
)
def test_yes_no_extract_wants_exactly_one_of_the_words(prediction: str, parsed: str) -> None:
    assert metrics.yes_no_extract(prediction) == parsed


@given(text=TEXTS)
def test_yes_no_extract_knows_three_answers(text: str) -> None:
    assert metrics.yes_no_extract(text) in ("Yes", "No", "Unknown")


@pytest.mark.parametrize(
    ("text", "vqav2", "textvqa"),
    [
        ("a dog", "dog", "dog"),
        ("Two", "2", "2"),
        ("none", "0", "0"),
        ("5.", "5", "5"),
        ("3.5", "3.5", "3.5"),
        ("1,000", "1000", "1000"),
        ("a,b", "b", "ab"),
        ("black/white", "black white", "black white"),
        ("black /white", "black white", "black white"),
        ("dont", "don't", "don't"),
        ("dog's", "dog's", "dog 's"),
        ("top-left (corner)", "top left corner", "top left corner"),
        ("top\nleft", "top left", "top left"),
        ("", "", ""),
    ],
)
def test_the_two_vqa_normalisers(text: str, vqav2: str, textvqa: str) -> None:
    assert metrics.vqa_normalizer_vqav2(text) == vqav2
    assert metrics.vqa_normalizer_textvqa(text) == textvqa


@pytest.mark.parametrize(("num_equal", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_accuracy_is_the_mean_over_leave_one_out_sets(num_equal: int, accuracy: float) -> None:
    references = ["a dog"] * num_equal + [f"other {number}" for number in range(10 - num_equal)]
    assert metrics.vqav2_accuracy("Dog", references) == pytest.approx(accuracy)
    assert metrics.textvqa_accuracy("Dog", references) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("It is a dog.", ["dog"], 1),
        ("hotdog", ["dog"], 0),
        ("$5", ["$5"], 0),
        ("100%", ["100%"], 0),
        ("anything", ["the"], 1),
        ("3.5", ["3"], 1),
        ("yes and no", ["no"], 1),
        ("two cats", ["2"], 1),
        ("cat", ["dog", "cat"], 1),
        ("日本語", ["日本"], 0),
    ],
)
def test_tiny_lvlm_word_match(prediction: str, references: list[str], score: int) -> None:
    assert metrics.tiny_lvlm_word_match(prediction, references) == score


def test_tiny_lvlm_overall_gives_the_leaderboards_figure_for_llava() -> None:
    abilities = ("reasoning", "perception", "knowledge", "commonsense", "hallucination")
    correct = dict(zip(abilities, (306, 196, 399, 286, 265), strict=True))
    total = dict(zip(abilities, (550, 400, 700, 500, 300), strict=True))
    assert metrics.tiny_lvlm_overall(correct, total) == pytest.approx(307.17, abs=0.005)
    with pytest.raises(ValueError, match="fit"):
        metrics.tiny_lvlm_overall(correct, {"reasoning": 550})


@pytest.mark.parametrize(
    ("replies", "vote"),
    [
        (("Most Likely Score: 1", "Final Score: 1", "Final Assessment Score: 0", "Final Score: 1", "nothing"), 1),
        (("most likely score: 0", "Final Score: 10", "Final Assessment Score: 1", "", ""), 0),
        (("", "", "", "Final Score: 1", "Most Likely Score: 1"), -1),
        (("Most Likely Score: 1", "Final Score: 0", "", "Final Score: 0", "Most Likely Score: 1"), 1),
        (("Final Score: 1",) * 5, -1),
    ],
)
def test_the_ensemble_vote_reads_the_text_behind_each_prompts_key(replies: tuple[str, ...], vote: int) -> None:
    assert metrics.tiny_lvlm_cee_vote(replies) == vote


@pytest.mark.parametrize(
    ("prediction", "parsed"),
    [
        ("No", "no"),
        ("no, there is", "no"),
        ("It is not", "no"),
        ("Yes. No.", "yes"),
        ("NO", "yes"),
        ("No!", "yes"),
        ("nope", "yes"),
        ("no\n", "yes"),
        ("", "yes"),
    ],
)
def test_pope_answers_are_yes_unless_a_no_word_stands_in_the_first_sentence(prediction: str, parsed: str) -> None:
    assert metrics.pope_answer_parse(prediction) == parsed


def test_pope_metrics_count_yes_as_positive() -> None:
    scores = metrics.pope_metrics(["Yes", "Yes", "no", "no", ""], ["yes", "no", "no", "yes", "yes"])
    assert scores == pytest.approx(
        {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    )
    assert metrics.pope_metrics(["no"], ["yes"])["f1"] == 0.0


@pytest.mark.parametrize(
    ("prediction", "parsed"),
    [
        ("Yes", "yes"),
        ("No, it", "no"),
        ("Snow", "no"),
        ("Eyes", "yes"),
        ("  yes", "other"),
        ("", "other"),
        ("It no", "other"),
    ],
)
def test_mme_answers_are_read_from_four_characters(prediction: str, parsed: str) -> None:
    assert metrics.mme_answer_parse(prediction) == parsed


def test_mme_scores_add_accuracy_and_accuracy_by_image() -> None:
    items = [("count", "1", "Yes"), ("count", "1", "No"), ("count", "2", "Yes"), ("count", "2", "No")]
    assert metrics.mme_score(["yes", "no", "yes", "yes"], items) == {
        "mme_perception_score": 75 + 50,
        "mme_cognition_score": None,
    }
    with pytest.raises(ValueError, match="not a category"):
        metrics.mme_score(["yes"], [("counting", "1", "Yes")])


CHOICES = {"A": "a teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        ("(B).", "B"),
        ("B) rabbit", "B"),
        ("The answer is B", "B"),
        ("A dog", "A"),
        ("b", None),
        ("a cute rabbit", "B"),
        ("a Rabbit and a cat", None),
        ("A or B", None),
        ("B because there are long ears on its head", None),
        ("Cannot determine the answer", "Z"),
        ("", None),
        ("rabbit " * 20, None),
    ],
)
def test_mmbench_reads_a_letter_and_then_an_options_text(prediction: str, letter: str | None) -> None:
    kept = dict(CHOICES)
    assert metrics.mmbench_extract(prediction, CHOICES) == letter
    assert kept == CHOICES


def test_mmbench_counts_a_question_only_if_every_rotation_is_right() -> None:
    rotations = [
        {"answer": "A", "choices": {"A": "cat", "B": "dog"}},
        {"answer": "B", "choices": {"A": "dog", "B": "cat"}},
    ]
    assert metrics.mmbench_circular(["A", "cat"], rotations) == 1.0
    assert metrics.mmbench_circular(["A", "A"], rotations) == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "has_word", "exact"),
    [
        ("This is a dog!", "dog", 1, 0),
        ("Dog.", "dog", 1, 1),
        ("aquarium fish", "aquarium_fish", 0, 0),
        ("hotdog", "dog", 0, 0),
        ("7", "7", 1, 1),
        ("digit 7", "7", 1, 0),
    ],
)
def test_class_names_are_found_as_words_or_alone(prediction: str, reference: str, has_word: int, exact: int) -> None:
    assert metrics.classification_has_word(prediction, [reference]) == has_word
    assert metrics.classification_exact(prediction, [reference]) == exact
