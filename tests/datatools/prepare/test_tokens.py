"""Tokens of a record, counted as training will."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from llava_moe.datatools.prepare.tokens import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)


def test_a_records_tokens_are_those_of_its_turns_without_images_and_special_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    counting = TextTokenizer("small", tokenizer.backend_tokenizer.to_str())
    turns = ["<image>\nWhat colour is the square?", "red", "Is it small?", "Yes"]
    expected = [len(tokenizer(turn.replace("<image>", ""), add_special_tokens=False).input_ids) for turn in turns]
    assert counting.count([turns[:2], [], turns[2:], ["", ""]]) == [sum(expected[:2]), 0, sum(expected[2:]), 0]


def test_what_spells_a_control_token_is_counted_as_letters(tokenizer: PreTrainedTokenizerFast) -> None:
    counting = TextTokenizer("small", tokenizer.backend_tokenizer.to_str())
    letters, token = counting.count([["it is </s> or <s>"], ["it is 1 or 1"]])
    assert letters > token
    assert counting.count([["it is </s> or <s>", "red"], ["red"]])[0] == letters + counting.count([["red"]])[0]


def test_the_fingerprint_is_that_of_the_tokenizer_as_it_is_written(tokenizer: PreTrainedTokenizerFast) -> None:
    text = tokenizer.backend_tokenizer.to_str()
    other = Tokenizer.from_str(text)
    other.add_tokens(["square"])
    assert TextTokenizer("a", text).fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert TextTokenizer("a", text).fingerprint != TextTokenizer("a", other.to_str()).fingerprint
