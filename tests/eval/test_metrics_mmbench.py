"""MMBench: the letter rule, the text rule, and circular evaluation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.eval.metrics import mmbench_circular, mmbench_extract

FEW = settings(max_examples=150, deadline=None)
CHOICES = {"A": "a teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


@pytest.mark.parametrize("prediction", ["B", "(B).", "B) rabbit", "The answer is B", "**B**", "B\n", "I say: B!"])
def test_one_option_letter_is_the_answer(prediction: str) -> None:
    assert mmbench_extract(prediction, CHOICES) == "B"


@pytest.mark.parametrize("prediction", ["A or B", "b", "B?", "B-", "option_B", ""])
def test_two_letters_small_letters_and_letters_in_words_are_none(prediction: str) -> None:
    assert mmbench_extract(prediction, {"A": "x1", "B": "x2"}) is None


def test_a_letter_counts_only_among_the_last_four_words() -> None:
    assert mmbench_extract("B is the right", CHOICES) == "B"
    assert mmbench_extract("B is the right one", CHOICES) is None


def test_the_first_place_of_a_repeated_letter_counts() -> None:
    assert mmbench_extract("B then it is again B", {"A": "x1", "B": "x2"}) is None


def test_the_article_a_is_read_as_a_letter() -> None:
    assert mmbench_extract("A dog", CHOICES) == "A"


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("a cute rabbit", "B"),
        ("a Rabbit and a cat", None),
        ("concatenate", "C"),
        ("rabbit " * 20, None),
        ("B because there is a rabbit and some grass", "B"),
        ("B because there are long ears on its head", None),
    ],
)
def test_else_the_one_option_whose_text_occurs_in_a_short_answer(prediction: str, letter: str | None) -> None:
    assert mmbench_extract(prediction, CHOICES) == letter


def test_the_length_that_counts_is_that_of_the_lower_cased_answer() -> None:
    # "İ" is one character and its lower case two: 10 > 2 * 4, so the text rule does not apply.
    assert mmbench_extract("İİİ xyz", {"A": "xyz", "B": "w"}) is None
    assert mmbench_extract("III xyz", {"A": "xyz", "B": "w"}) == "A"


def test_an_answer_may_be_twice_as_long_as_the_options_together() -> None:
    assert mmbench_extract("rabbit".ljust(48, "."), CHOICES) == "B"
    assert mmbench_extract("rabbit".ljust(49, "."), CHOICES) is None


@pytest.mark.parametrize("prediction", ["Cannot determine the answer", "I can't process this file. B", "Z"])
def test_refusals_are_z(prediction: str) -> None:
    assert mmbench_extract(prediction, CHOICES) == "Z"


def test_a_failed_call_is_no_letter() -> None:
    assert mmbench_extract("Failed to obtain answer via API B", CHOICES) is None


@given(words=st.lists(st.sampled_from(["A", "B", "C", "(A)", "B.", "is", "it", "a", "Z", "x-A"]), max_size=8))
@FEW
def test_a_letter_among_the_words_before_the_last_four_spoils_the_answer(words: list[str]) -> None:
    tokens = [word.strip("().") for word in words]
    named = set(tokens) & {"A", "B", "C"}
    expected = "Z" if not named and "Z" in tokens else None
    if len(named) == 1:
        letter = named.pop()
        expected = letter if letter not in tokens[: max(0, len(tokens) - 4)] else None
    assert mmbench_extract(" ".join(words), {"A": "option 1", "B": "option 2", "C": "option 3"}) == expected


@given(prediction=st.text(max_size=30))
@FEW
def test_any_text_gives_an_option_z_or_none_and_leaves_the_options_alone(prediction: str) -> None:
    kept = dict(CHOICES)
    assert mmbench_extract(prediction, kept) in {None, "Z", *CHOICES}
    assert kept == CHOICES


ROTATIONS = [
    {"answer": "A", "choices": {"A": "cat", "B": "dog"}},
    {"answer": "B", "choices": {"A": "dog", "B": "cat"}},
]


@pytest.mark.parametrize(
    ("predictions", "score"),
    [
        (["A", "B"], 1),
        (["A", "cat"], 1),
        (["A", "A"], 0),
        (["B", "A"], 0),
        (["A", "neither"], 0),
        (["A", "Cannot determine the answer"], 0),
        (["", ""], 0),
    ],
)
def test_a_question_counts_only_if_every_rotation_is_right(predictions: list[str], score: int) -> None:
    assert mmbench_circular(predictions, ROTATIONS) == score


@pytest.mark.parametrize(("predictions", "rotations"), [([], []), (["A"], ROTATIONS)])
def test_circular_evaluation_wants_an_answer_a_rotation(
    predictions: list[str], rotations: list[dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match="rotations"):
        mmbench_circular(predictions, rotations)


def test_circular_evaluation_wants_letters_with_texts() -> None:
    with pytest.raises(ValueError, match="letters to texts"):
        mmbench_circular(["A"], [{"answer": "A", "choices": ["cat", "dog"]}])
