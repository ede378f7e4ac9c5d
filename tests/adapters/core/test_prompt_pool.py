"""Means over prompts, and with whom they are shared."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from llava_moe.adapters.core.forward_call import ForwardCall
from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts
from llava_moe.adapters.core.prompt_pool import PromptPool, pool_text

CPU = torch.device("cpu")
LABELS = torch.tensor([[-100, -100, 7, 7], [-100, -100, -100, 7]])
IDS = torch.tensor([[1, 2, 3, 0], [3, 3, 0, 0]])


def call(**facts: object) -> ForwardCall:
    return ForwardCall(ForwardCallFacts((2, 4), CPU, labels=LABELS, **facts))  # type: ignore[arg-type]


def test_a_mean_is_over_prompts_and_handed_to_each_reader_once() -> None:
    pool, asked = PromptPool(), call()
    x_BTD = torch.arange(8.0).view(2, 4, 1)
    first = pool.pool(asked, x_BTD, "q")
    assert first.tolist() == [[0.5], [5.0]]
    assert pool.pool(asked, x_BTD, None) is not first
    assert [pool.pool(asked, x_BTD, reader) is first for reader in ("k", "k")] == [True, False]
    again = pool.pool(asked, x_BTD, "q")
    assert again is not first and pool.pool(asked, x_BTD.clone(), "v") is not again


def test_what_is_forgotten_or_copied_is_shared_with_nobody() -> None:
    pool, asked, x_BTD = PromptPool(), call(), torch.ones(2, 4, 1, requires_grad=True)
    first = pool.pool(asked, x_BTD, "q")
    assert copy.deepcopy(pool).pool(asked, x_BTD, "k") is not first
    pool.forget()
    assert pool.pool(asked, x_BTD, "k") is not first


def test_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="last called with 8 tokens, this part of it alone with 6: call the whole"):
        PromptPool().pool(call(), torch.ones(2, 3, 1), None)


def test_text_is_pooled_without_images_and_once() -> None:
    embed = nn.Embedding(4, 1)
    with torch.no_grad():
        embed.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    asked = call(tokens=IDS, embed=embed, is_text=IDS != 2)
    assert pool_text(asked).tolist() == [[1.0], [2.0]]
    assert pool_text(asked) is pool_text(asked) and not pool_text(asked).requires_grad
    assert pool_text(call(tokens=embed(IDS).detach())).tolist() == [[1.5], [2.0]]
    with pytest.raises(ValueError, match="reads_text is set before"):
        pool_text(call())
