"""A sweep has an end that is told before it begins."""

from __future__ import annotations

import pytest

from llava_moe.config.odd_words import MOST_WORDS
from llava_moe.config.sweep_size import MOST_RUNS, refuse_large_sweep
from llava_moe.errors import UserError
from tests.commands.conftest import Refusal

LARGE = {
    "1,000,000": ["seed=range(0,1000000)"],
    "998,001": ["seed=range(1,1000)", "train.max_steps=range(1,1000)"],
    "1,024": [f"x{number}=1,2" for number in range(10)],
    "1,001": ["seed=range(1001)"],
    "2,000": ["rate=range(0,1,0.0005)"],
    "beyond counting": [f"seed=range(0,{'9' * 30})"],
}


def test_a_sweep_of_too_many_runs_is_refused_with_their_number(refused: Refusal) -> None:
    for told, words in LARGE.items():
        assert f"asks for {told} runs" in refused("train", "-m", *words)


def test_a_sweep_that_is_no_larger_passes_and_a_wrong_word_is_left_to_its_own_line() -> None:
    for words in (
        ["seed=range(1000)"],
        ["a=1,2", "b=[1,2,3]", "c=choice(1,2)"],
        [],
        ["seed=range(0,9,0)"],
        ["a=[", "b"],
    ):
        refuse_large_sweep(words)
    assert MOST_RUNS == 1_000
    with pytest.raises(UserError):
        refuse_large_sweep(["seed=range(1000)", "a=1,2"])


def test_words_without_end_are_refused(refused: Refusal) -> None:
    assert "words are more than" in refused("train", *(f"+x{number}=1" for number in range(MOST_WORDS + 1)))
