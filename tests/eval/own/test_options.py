"""Which answers stand among the options that a question lists."""

from __future__ import annotations

from typing import Any

import pytest

from llava_moe.eval.own.options import is_listed

LETTERED = "Which colour?\nA. red\nB) dark blue\n(C) green"


@pytest.mark.parametrize(
    ("answer", "question", "record"),
    [
        ("B", LETTERED, {}),
        ("(b)", LETTERED, {}),
        ("Dark blue.", LETTERED, {}),
        ("B. dark blue", LETTERED, {}),
        ("green", "Which one? (A) red (B) blue, (C) green?", {}),
        ("red", "Which one? Options: red, blue or green.", {}),
        ("no", "Is it small?\nOptions:\n- no\n- yes\nAnswer with one.", {}),
        ("Yes", "Is it small? Answer yes or no.", {}),
        ("false", "It is small. True/False?", {}),
        ("two", "How many?", {"choices": ["one", "two"]}),
        ("B", "How many?", {"choices": ["one", "two"]}),
        ("D", "How many?", {"options": {"C": "one", "D": "two", "E": None}}),
    ],
)
def test_an_option_is_told_by_its_text_its_letter_or_both(answer: str, question: str, record: dict[str, Any]) -> None:
    assert is_listed([answer], question, record)
    assert is_listed(["something else", answer], question, record)


@pytest.mark.parametrize(
    ("answer", "question", "record"),
    [
        ("white", LETTERED, {}),
        ("D", LETTERED, {}),
        ("A", "What did J. Smith say to A. Miller?", {}),
        ("Smith", "J. Smith\nA. Miller\nWho is older?", {}),
        ("yes", "What is small?", {}),
        ("three", "How many?", {"choices": ["one", "two"], "answer": "three"}),
        ("", "Which one? Options:", {"options": []}),
    ],
)
def test_what_no_question_lists_is_no_option(answer: str, question: str, record: dict[str, Any]) -> None:
    assert not is_listed([answer], question, record)
