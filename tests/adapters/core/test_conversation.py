"""Whether a call goes on with the conversation of the last one, without a model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from llava_moe.adapters.core.conversation import ConversationTracker, is_longer
from llava_moe.adapters.core.forward_call import ForwardCall
from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])


def goes_on(tracker: ConversationTracker, tokens: Tensor, **facts: Any) -> bool:
    call = ForwardCall(ForwardCallFacts((tokens.shape[0], tokens.shape[1]), tokens.device, **facts))
    tracker.follow(call, tokens)
    return call.continues_cache


def begun() -> ConversationTracker:
    tracker = ConversationTracker()
    tracker.begin()
    return tracker


def test_an_input_that_begins_with_the_whole_prompt_goes_on_with_it() -> None:
    tracker = begun()
    assert [goes_on(tracker, IDS[:, :length]) for length in (3, 4, 6, 3)] == [False, True, True, False]
    assert not goes_on(tracker, IDS + 1)


def test_another_answer_to_the_prompt_goes_on_with_it_too() -> None:
    tracker, other = begun(), torch.tensor([[1, 2, 3, 9, 9, 9]])
    assert [goes_on(tracker, tokens) for tokens in (IDS[:, :3], IDS[:, :5], other)] == [False, True, True]


def test_training_labels_and_several_examples_end_a_conversation() -> None:
    for facts in (
        {"is_training": True},
        {"labels": torch.zeros(1, 6)},
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])},
    ):
        tracker = begun()
        assert not goes_on(tracker, IDS[:, :3]) and not goes_on(tracker, IDS, **facts), facts


def test_a_filled_cache_leaves_the_prompt_as_it_is() -> None:
    tracker = begun()
    assert not goes_on(tracker, IDS[:, :3])
    assert goes_on(tracker, IDS[:, 3:4], cache_was_filled=True)
    assert goes_on(tracker, IDS)


def test_the_first_question_counts_the_last_call_as_the_prompt_while_its_tokens_live() -> None:
    tracker, prompt = ConversationTracker(), IDS[:, :3].clone()
    assert not goes_on(tracker, prompt)
    tracker.begin()
    assert goes_on(tracker, IDS)
    tracker = ConversationTracker()
    assert not goes_on(tracker, prompt)
    del prompt
    tracker.begin()
    assert not goes_on(tracker, IDS)


def test_nothing_is_compared_before_somebody_asks() -> None:
    tracker = ConversationTracker()
    assert not goes_on(tracker, IDS[:, :3]) and not goes_on(tracker, IDS)


def test_a_conversation_ends_by_word_and_no_copy_knows_it() -> None:
    tracker = begun()
    assert not goes_on(tracker, IDS[:, :3])
    twin = copy.deepcopy(tracker)
    assert not goes_on(twin, IDS[:, :5]) and goes_on(twin, IDS)  # a copy compares as well
    tracker.forget()
    assert not goes_on(tracker, IDS)


def test_only_rows_of_the_same_kind_can_be_longer() -> None:
    assert is_longer(IDS, IDS[:, :5]) and not is_longer(IDS, IDS)
    assert not is_longer(IDS.expand(2, 6), IDS[:, :5]) and not is_longer(IDS[..., None], IDS[:, :5])
