"""Yes/no answers: words, POPE's and MME's readings and scores."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.eval import metrics
from llava_moe.eval.metrics.mme import MME_COGNITION, MME_PERCEPTION

FEW = settings(max_examples=150, deadline=None)
PIECES = ["yes", "no", "Yes", "No", "NO", "not", "y", "n", "e", "s", "o", " ", " ", ".", ",", "!", "\n", "-", "é", "5"]
ANSWERS = st.one_of(st.text(max_size=15), st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
LABELS = st.sampled_from(["yes", "no"])
PAIRS = st.lists(st.tuples(ANSWERS, LABELS), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("prediction", "parsed"),
    [
        ("Yes", "Yes"),
        ("no!", "No"),
        ("(yes)", "Yes"),
        ("It is: yes.", "Yes"),
        ("no-one", "No"),
        ("NO\n", "No"),
        ("." * 40 + " no", "No"),
    ],
)
def test_one_of_the_words_alone_is_the_answer(prediction: str, parsed: str) -> None:
    assert metrics.yes_no_extract(prediction) == parsed


@pytest.mark.parametrize("prediction", ["Yes, there is no lesion", "", "maybe", "no" + "." * 40])
def test_both_words_or_neither_is_unknown(prediction: str) -> None:
    assert metrics.yes_no_extract(prediction) == "Unknown"


@pytest.mark.parametrize("prediction", ["normal", "nodules", "cannot", "eyes", "nope", "yesterday"])
def test_words_inside_words_are_no_answer(prediction: str) -> None:
    assert metrics.yes_no_extract(prediction) == "Unknown"


@given(words=st.lists(st.sampled_from(["yes", "no", "YES", "No", "not", "eyes", "it", "is"]), max_size=8))
@FEW
def test_yes_no_extract_is_membership_of_words(words: list[str]) -> None:
    lower = [word.lower() for word in words]
    expected = {(True, False): "Yes", (False, True): "No"}.get(("yes" in lower, "no" in lower), "Unknown")
    assert metrics.yes_no_extract(" ".join(words)) == expected


@given(pairs=PAIRS)
@FEW
def test_yes_no_metrics_are_those_of_the_table_of_answers(pairs: list[tuple[str, str]]) -> None:
    read = [(metrics.yes_no_extract(answer).lower(), label) for answer, label in pairs]
    scores = metrics.yes_no_metrics([answer for answer, _ in pairs], [label.capitalize() for _, label in pairs])
    said, true = sum(one == "yes" for one, _ in read), sum(label == "yes" for _, label in read)
    assert scores["accuracy"] == pytest.approx((read.count(("yes", "yes")) + read.count(("no", "no"))) / len(read))
    assert scores["precision"] == pytest.approx(read.count(("yes", "yes")) / said if said else 0)
    assert scores["recall"] == pytest.approx(read.count(("yes", "yes")) / true if true else 0)
    assert scores["f1"] == pytest.approx(2 * read.count(("yes", "yes")) / (said + true) if said + true else 0)
    assert scores["unknown_ratio"] == pytest.approx(sum(one == "unknown" for one, _ in read) / len(read))


@pytest.mark.parametrize("prediction", ["No", "no, there is", "It is not", "no.", " no ", "n,o", "yes, not no"])
def test_pope_reads_no_where_a_no_word_stands_in_the_first_sentence(prediction: str) -> None:
    assert metrics.pope_answer_parse(prediction) == "no"


@pytest.mark.parametrize("prediction", ["Yes. No.", "NO", "No!", "nope", "no\n", "", "(no)", ".no", "NOT", "Not"])
def test_pope_reads_everything_else_as_yes(prediction: str) -> None:
    assert metrics.pope_answer_parse(prediction) == "yes"


@given(prediction=ANSWERS)
@FEW
def test_pope_reads_as_a_pattern_over_the_first_sentence_does(prediction: str) -> None:
    first = re.match(r"[^.]*", prediction)
    assert first is not None
    sentence = first.group().replace(",", "")
    assert (metrics.pope_answer_parse(prediction) == "no") == bool(re.search(r"(?<![^ ])(No|not|no)(?![^ ])", sentence))


@given(pairs=PAIRS)
@FEW
def test_pope_metrics_count_yes_as_positive(pairs: list[tuple[str, str]]) -> None:
    read = [(metrics.pope_answer_parse(answer), label) for answer, label in pairs]
    hits, false_alarms, misses = (read.count(cell) for cell in (("yes", "yes"), ("yes", "no"), ("no", "yes")))
    scores = metrics.pope_metrics([answer for answer, _ in pairs], [label for _, label in pairs])
    assert list(scores) == ["accuracy", "precision", "recall", "f1", "yes_ratio"]
    assert scores["accuracy"] == pytest.approx(1 - (false_alarms + misses) / len(read))
    assert scores["precision"] == pytest.approx(hits / (hits + false_alarms) if hits + false_alarms else 0)
    assert scores["recall"] == pytest.approx(hits / (hits + misses) if hits + misses else 0)
    assert scores["f1"] == pytest.approx(2 * hits / (2 * hits + false_alarms + misses) if hits else 0)
    assert scores["yes_ratio"] == pytest.approx((hits + false_alarms) / len(read))


def test_pope_metrics_by_hand() -> None:
    scores = metrics.pope_metrics(["Yes", "Yes", "no", "no", ""], ["yes", "no", "no", "yes", "yes"])
    assert scores == pytest.approx(
        {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    )
    assert metrics.pope_metrics(["no"], ["yes"])["f1"] == 0.0


def test_every_pope_label_but_no_counts_as_yes() -> None:
    assert metrics.pope_metrics(["Yes", "Yes"], ["No", "no"])["accuracy"] == 1 / 2


def test_popes_empty_answers_are_all_yes() -> None:
    scores = metrics.pope_metrics([""] * 4, ["yes", "no"] * 2)
    assert scores == pytest.approx({"accuracy": 0.5, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes_ratio": 1})


def test_lmms_evals_pope_wants_the_bare_word_and_takes_its_yes_ratio_from_the_labels() -> None:
    scores = metrics.pope_metrics_lmms_eval(["Yes.", " yes\n", "No", "maybe"], ["yes", "yes", "no", "yes"])
    assert scores == {"accuracy": 2 / 4, "precision": 1.0, "recall": 1.0, "f1": 1.0, "yes_ratio": 3 / 4}


@pytest.mark.parametrize(
    "scorer", [metrics.pope_metrics, metrics.pope_metrics_lmms_eval, metrics.yes_no_metrics], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(("predictions", "labels"), [([], []), (["yes"], ["yes", "no"])])
def test_yes_no_scores_want_as_many_labels_as_predictions(
    scorer: Callable[..., object], predictions: list[str], labels: list[str]
) -> None:
    with pytest.raises(ValueError, match="labels"):
        scorer(predictions, labels)


@pytest.mark.parametrize("scorer", [metrics.pope_metrics_lmms_eval, metrics.yes_no_metrics])
def test_labels_other_than_yes_and_no_are_refused(scorer: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="perhaps"):
        scorer(["yes"], ["perhaps"])


@pytest.mark.parametrize(
    ("prediction", "parsed", "lmms_eval"),
    [
        ("Yes", "yes", "yes"),
        ("No, it", "no", "no"),
        ("Snow", "no", "no"),
        ("Eyes", "yes", "yes"),
        ("  yes", "other", "yes"),
        ("\nno", "no", "no"),
        ("", "other", "other"),
        ("It no", "other", "other"),
        ("I. no", "other", "no"),
        ("y", "other", "yes"),
        ("N.", "other", "no"),
        ("yes and no", "yes", "yes"),
    ],
)
def test_mme_answers_are_read_from_four_characters(prediction: str, parsed: str, lmms_eval: str) -> None:
    assert metrics.mme_answer_parse(prediction) == parsed
    assert metrics.mme_answer_parse_lmms_eval(prediction) == lmms_eval


@given(prediction=ANSWERS)
@FEW
def test_mme_answers_match_a_pattern_of_four_characters(prediction: str) -> None:
    lowered = prediction.lower()
    expected = "yes" if lowered.startswith("yes") or lowered[1:].startswith("yes") else "other"
    if expected == "other" and any(lowered[place:].startswith("no") for place in range(3)):
        expected = "no"
    assert metrics.mme_answer_parse(prediction) == expected


def test_mme_scores_add_accuracy_and_accuracy_by_image() -> None:
    items = [("count", "1", "Yes"), ("count", "1", "No"), ("count", "2", "Yes"), ("count", "2", "No")]
    assert metrics.mme_score(["yes", "no", "yes", "yes"], items) == {
        "mme_perception_score": 75 + 50,
        "mme_cognition_score": None,
    }


def test_mme_reaches_two_thousand_and_eight_hundred() -> None:
    items = [(name, "1", gold) for name in sorted(MME_PERCEPTION | MME_COGNITION) for gold in ("Yes", "No")]
    scores = metrics.mme_score([gold for _, _, gold in items], items)
    assert scores == {"mme_perception_score": 2000.0, "mme_cognition_score": 800.0}
    assert metrics.mme_score([""] * len(items), items) == {"mme_perception_score": 0.0, "mme_cognition_score": 0.0}


def test_mme_pairs_images_within_a_category_whatever_the_order() -> None:
    items = [("count", "1", "Yes"), ("OCR", "1", "Yes"), ("OCR", "1", "No"), ("count", "1", "No")]
    assert metrics.mme_score(["yes", "yes", "yes", "no"], items)["mme_perception_score"] == 200 + 50


def test_mme_scores_take_another_reading() -> None:
    items = [("count", "1", "Yes"), ("count", "1", "No")]
    assert metrics.mme_score(["Y", "n"], items)["mme_perception_score"] == 0
    read = metrics.mme_answer_parse_lmms_eval
    assert metrics.mme_score(["Y", "n"], items, parse=read)["mme_perception_score"] == 200


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("counting", "1", "Yes")], "not a category"),
        ([("count", "1", "perhaps")], "perhaps"),
        ([], "0 items"),
    ],
)
def test_mme_refuses_items_that_are_not_its_own(items: list[tuple[str, str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.mme_score(["yes"], items)
