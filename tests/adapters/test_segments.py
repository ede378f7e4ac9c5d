"""Which example each token belongs to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from llava_moe.adapters.segments import Segments


class Listener(nn.Module):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **rest: Any) -> None:
        return None


def heard(*args: Any, **kwargs: Any) -> tuple[list[list[int]], int]:
    listener, segments = Listener(), Segments()
    segments.watch(listener)
    listener(*args, **kwargs)
    segments_BT, count = segments.of_tokens()
    return segments_BT.tolist(), int(count)


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.zeros(rows, length, dtype=torch.long)


def test_positions_that_restart_start_an_example() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 0, 1, 2]])
    assert heard(inputs_embeds=torch.zeros(1, 7, 4), position_ids=positions) == ([[0, 0, 0, 1, 2, 2, 2]], 3)


def test_examples_are_counted_through_the_rows() -> None:
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3], [0, 0, 1, 2]])
    assert heard(ids(3, 4), position_ids=positions) == ([[0, 0, 1, 1], [2, 2, 2, 2], [3, 4, 4, 4]], 5)


def test_one_row_of_positions_serves_all_rows() -> None:
    assert heard(ids(2, 3), position_ids=torch.tensor([[0, 1, 2]])) == ([[0, 0, 0], [1, 1, 1]], 2)


def test_without_positions_or_mask_a_row_is_an_example() -> None:
    assert heard(input_ids=ids(2, 3)) == ([[0, 0, 0], [1, 1, 1]], 2)


@pytest.mark.parametrize("positions", [None, [[0, 0, 0, 1, 2]], [[1, 1, 0, 1, 2]], [[0, 1, 2, 3, 4]]])
def test_left_padding_belongs_to_no_example(positions: list[list[int]] | None) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    given = None if positions is None else torch.tensor(positions)
    assert heard(ids(1, 5), mask, given) == ([[-1, -1, 0, 0, 0]], 1)


def test_right_padding_and_a_silent_row_belong_to_no_example() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    assert heard(ids(3, 3), attention_mask=mask) == ([[0, 0, -1], [-1, -1, -1], [1, 1, 1]], 2)


def test_decoding_reads_the_end_of_a_longer_mask() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    positions = torch.tensor([[2], [3]])
    assert heard(ids(2, 1), attention_mask=mask, position_ids=positions) == ([[0], [1]], 2)


@pytest.mark.parametrize("prepare", [lambda m: m, lambda m: {"full_attention": m}, lambda m: (~m) * -1e9])
def test_padding_is_read_from_the_attentions_own_mask(prepare: Any) -> None:
    is_token_BT = torch.tensor([[False, True, True], [True, True, True]])
    seen = torch.ones(3, 3, dtype=torch.bool).tril() & is_token_BT[:, None, None]
    expected = ([[-1, 0, 0], [1, 1, 1]], 2)
    assert heard(ids(2, 3), attention_mask=prepare(seen)) == expected
    # A static cache has room for more keys.
    assert heard(ids(2, 3), attention_mask=prepare(torch.nn.functional.pad(seen, (0, 4)))) == expected
    assert heard(ids(2, 3), attention_mask=prepare(seen[1:])) == ([[0, 0, 0], [1, 1, 1]], 2)


def test_asking_before_any_forward_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="no forward pass"):
        Segments().of_tokens()


@torch.no_grad()
def test_examples_are_those_that_the_packed_attention_keeps_apart() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model, segments = LlamaModel(config).eval(), Segments()
    segments.watch(model)
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    tokens = torch.arange(6)[None]
    packed = model(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state[0]
    segments_BT, count = segments.of_tokens()
    for segment in range(int(count)):
        mine = segments_BT[0] == segment
        own = model(input_ids=tokens[:, mine], use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(packed[mine], own, atol=1e-6, rtol=1e-5)
