"""ChartQA's relaxed accuracy and the two ANLS scorers of DocVQA."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.eval.metrics import chartqa_relaxed_accuracy, docvqa_anls, docvqa_anls_due

FEW = settings(max_examples=100, deadline=None)
TEXTS = st.one_of(st.text(max_size=12), st.text(alphabet="abAB \n.", max_size=8))


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("10.5", "10", 1),
        ("10.51", "10", 0),
        ("9.5", "10", 1),
        ("-10", "10", 0),
        ("-10", "-10.2", 1),
        ("3", "3.0", 1),
        ("1e1", "10", 1),
    ],
)
def test_numbers_within_five_per_cent_of_the_reference_are_right(prediction: str, reference: str, score: int) -> None:
    assert chartqa_relaxed_accuracy(prediction, [reference]) == score


@given(hundredths=st.integers(-3000, 3000), reference=st.integers(1, 2000))
@FEW
def test_the_tolerance_is_five_per_cent_of_the_reference_away_from_its_edge(hundredths: int, reference: int) -> None:
    predicted = reference * (1 + Decimal(hundredths) / 10_000)
    if abs(hundredths) != 500:  # at the very edge the rounding of binary fractions decides
        assert chartqa_relaxed_accuracy(str(predicted), [str(reference)]) == (abs(hundredths) < 500)


def test_the_prediction_may_miss_by_five_per_cent_of_the_reference_not_of_itself() -> None:
    assert chartqa_relaxed_accuracy("95", ["100"]) == 1
    assert chartqa_relaxed_accuracy("100", ["95"]) == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [("10%", "0.1", 1), ("10 %", "10%", 1), ("10%%", "0.1", 1), ("10", "10%", 0), ("%", "%", 1), ("%", "0", 0)],
)
def test_a_per_cent_sign_divides_by_a_hundred(prediction: str, reference: str, score: int) -> None:
    assert chartqa_relaxed_accuracy(prediction, [reference]) == score


@pytest.mark.parametrize(("prediction", "score"), [("0", 1), ("0.0", 0), ("0.001", 0), ("0%", 0)])
def test_a_reference_of_nought_has_no_tolerance(prediction: str, score: int) -> None:
    assert chartqa_relaxed_accuracy(prediction, ["0"]) == score


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [("1,000", "1000", 0), ("1,000", "1,000", 1), ("$5", "5", 0), ("5 kg", "5", 0), ("$5", "$5", 1)],
)
def test_commas_currency_and_units_keep_a_text_from_being_a_number(prediction: str, reference: str, score: int) -> None:
    assert chartqa_relaxed_accuracy(prediction, [reference]) == score


def test_years_get_the_tolerance_too() -> None:
    assert chartqa_relaxed_accuracy("1950", ["2000"]) == 1


@pytest.mark.parametrize(("prediction", "reference"), [("nan", "5"), ("nan", "nan"), ("inf", "inf"), ("5", "inf")])
def test_what_is_no_number_and_what_is_infinite_match_nothing(prediction: str, reference: str) -> None:
    assert chartqa_relaxed_accuracy(prediction, [reference]) == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("Yes.", "Yes", 0),
        ("YES", "yes", 1),
        (" yes\n", "yes", 1),
        ("yes", " yes", 0),
        ("", "", 1),
        ("Ünïcode", "ünïcode", 1),
        ("no", "yes", 0),
    ],
)
def test_words_must_agree_but_for_case_and_the_predictions_outer_blanks(
    prediction: str, reference: str, score: int
) -> None:
    assert chartqa_relaxed_accuracy(prediction, [reference]) == score


def levenshtein(one: str, other: str) -> int:
    """The textbook's recursion, over prefixes."""
    table = {(i, j): i + j for i in range(len(one) + 1) for j in range(len(other) + 1)}
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            swap = table[i - 1, j - 1] + (one[i - 1] != other[j - 1])
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, swap)
    return table[len(one), len(other)]


@given(prediction=TEXTS, reference=TEXTS)
@FEW
def test_anls_is_the_distance_of_collapsed_texts_over_the_length_of_raw_ones(prediction: str, reference: str) -> None:
    raw = prediction.strip()
    distance = levenshtein(" ".join(raw.lower().split()), " ".join(reference.lower().split()))
    similarity = 1 - distance / (max(len(raw.upper()), len(reference.upper())) or 1)
    assert docvqa_anls(prediction, [reference]) == pytest.approx(similarity if similarity >= 0.5 else 0)


@given(prediction=TEXTS, reference=TEXTS)
@FEW
def test_due_anls_is_the_distance_of_upper_case_texts_over_their_own_length(prediction: str, reference: str) -> None:
    upper, gold = prediction.replace("\n", "").upper(), reference.upper()
    similarity = 1 - levenshtein(upper, gold) / (max(len(upper), len(gold)) or 1)
    assert docvqa_anls_due(prediction, [reference]) == pytest.approx(similarity if similarity > 0.5 else 0)


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("Total", ["total"], 1),
        ("abcd", ["abce"], 0.75),
        ("abc", ["xyz"], 0),
        ("a  b", ["a b"], 1),
        ("", ["a"], 0),
        ("1,000", ["1000", "1,000"], 1),
        ("line\nbreak", ["linebreak"], 0.9),
        (" total\n", ["total"], 1),
    ],
)
def test_anls_cases(prediction: str, references: list[str], score: float) -> None:
    assert docvqa_anls(prediction, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("Total", ["total"], 1),
        ("abcd", ["abce"], 0.75),
        ("a  b", ["a b"], 0.75),
        ("line\nbreak", ["linebreak"], 1),
        ("linebreak", ["line\nbreak"], 0.9),
        (" total", ["total"], 5 / 6),
        ("ﬁx", ["FIX"], 1),
        ("1,000", ["1000", "1,000"], 1),
    ],
)
def test_due_anls_cases(prediction: str, references: list[str], score: float) -> None:
    assert docvqa_anls_due(prediction, references) == pytest.approx(score)


def test_exactly_one_half_survives_in_one_scorer_and_not_in_the_other() -> None:
    assert docvqa_anls("ab", ["ac"]) == 0.5
    assert docvqa_anls_due("ab", ["ac"]) == 0.0


def test_two_empty_texts_are_equal_to_both_scorers() -> None:
    assert docvqa_anls("", [""]) == docvqa_anls_due("", [""]) == 1.0


def test_anls_divides_by_the_length_of_the_raw_reference() -> None:
    # One edit between "a b" and "a c"; the raw reference is 5 characters long: 1 - 1/5, not 1 - 1/3.
    assert docvqa_anls("a b", ["a   c"]) == pytest.approx(1 - 1 / 5)


def test_anls_divides_by_the_length_of_the_upper_case_text() -> None:
    # One edit; "straße" is six characters, "STRASSE" seven.
    assert docvqa_anls("straße", ["strase"]) == pytest.approx(1 - 1 / 7)
    assert docvqa_anls("strase", ["straße"]) == pytest.approx(1 - 1 / 7)
