"""From the facts of a call to its examples and prompts, without a model."""

from __future__ import annotations

import torch

from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts
from llava_moe.adapters.core.segment_map import bins_of, find_prompts, number_examples

CPU = torch.device("cpu")


def numbered(facts: ForwardCallFacts) -> tuple[list[list[int]], int]:
    segments_BT, num_segments = number_examples(facts)
    assert num_segments.ndim == 0
    return segments_BT.tolist(), int(num_segments)


def test_without_positions_or_mask_a_row_is_an_example() -> None:
    assert numbered(ForwardCallFacts((2, 3), CPU)) == ([[0, 0, 0], [1, 1, 1]], 2)


def test_positions_that_restart_start_an_example_in_every_row() -> None:
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3], [0, 0, 1, 2]])
    expected = ([[0, 0, 1, 1], [2, 2, 2, 2], [3, 4, 4, 4]], 5)
    assert numbered(ForwardCallFacts((3, 4), CPU, position_ids=positions)) == expected
    assert numbered(ForwardCallFacts((2, 4), CPU, position_ids=positions[:1])) == ([[0, 0, 1, 1], [2, 2, 3, 3]], 4)


def test_silent_tokens_belong_to_no_example() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]])
    assert numbered(ForwardCallFacts((3, 4), CPU, attention_mask=mask)) == (
        [[-1, -1, 0, 0], [-1] * 4, [1, 1, 1, -1]],
        2,
    )


def test_of_a_mask_that_covers_the_past_too_the_end_is_read() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 0]])
    assert numbered(ForwardCallFacts((1, 2), CPU, attention_mask=mask)) == ([[0, -1]], 1)


def test_a_prompt_ends_before_the_first_supervised_token_of_its_own_example() -> None:
    segments_BT = torch.tensor([[-1, 0, 0, 0, 1, 1], [2, 2, 2, 3, 3, -1]])
    labels_BT = torch.tensor([[5, -100, 7, -100, -100, -100], [7, -100, -100, -100, 7, 7]])
    # The label of a token of no example does not count; an example without labels is all prompt.
    expected = [[0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0]]
    assert find_prompts(segments_BT, labels_BT, 4).int().tolist() == expected


def test_tokens_that_are_not_read_go_to_the_bin_behind_the_last() -> None:
    segments_BT = torch.tensor([[0, 0, 1, 2, -1]])
    is_read_BT = torch.tensor([[True, True, False, True, False]])
    bins_N, counts_S1 = bins_of(is_read_BT, segments_BT, 3)
    assert bins_N.tolist() == [0, 0, 3, 2, 3]
    assert counts_S1.tolist() == [[2], [1], [1]]  # nothing is divided by zero
