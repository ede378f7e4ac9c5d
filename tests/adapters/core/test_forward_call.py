"""What follows from a call's facts."""

from __future__ import annotations

import warnings

import pytest
import torch

from llava_moe.adapters.core.forward_call import ForwardCall
from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts

CPU = torch.device("cpu")
POSITIONS = torch.tensor([[0, 1, 2, 0, 1]])
LABELS = torch.tensor([[-100, -100, 7, -100, 7]])


def test_what_follows_is_computed_once() -> None:
    call = ForwardCall(ForwardCallFacts((1, 5), CPU, POSITIONS, labels=LABELS))
    assert call.of_tokens() is call.of_tokens() and call.bins() is call.bins()
    assert call.num_segments == 2 and call.is_prompt().int().tolist() == [[1, 1, 0, 1, 0]]
    assert call.bins()[0].tolist() == [0, 0, 2, 1, 2]


def test_without_labels_all_is_prompt_and_training_is_warned() -> None:
    with pytest.warns(UserWarning, match="without labels"):
        assert ForwardCall(ForwardCallFacts((1, 5), CPU, POSITIONS, is_training=True)).is_prompt().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ForwardCall(ForwardCallFacts((1, 5), CPU, POSITIONS)).is_prompt().all()
        ForwardCall(ForwardCallFacts((1, 5), CPU, POSITIONS, labels=LABELS, is_training=True)).is_prompt()


def test_a_filled_cache_goes_on_with_a_conversation() -> None:
    assert ForwardCall(ForwardCallFacts((1, 1), CPU, cache_was_filled=True)).continues_cache
    assert not ForwardCall(ForwardCallFacts((1, 1), CPU)).continues_cache
