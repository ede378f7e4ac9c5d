"""From what a call says to its examples and prompts: functions of their arguments alone.

Shape suffixes: B rows, T tokens, N = B * T, S examples (segments) of all rows together in reading order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts
from llava_moe.packed_rows import example_starts

IGNORED = -100


def number_examples(facts: ForwardCallFacts) -> tuple[Tensor, Tensor]:
    """Number the examples of a call through all rows.

    Positions that restart start an example, by the rule with which transformers builds its packed mask. Tokens that the
    mask silences belong to none. Without either, a row is one example.

    Returns:
        ``segments_BT`` int64, -1 for tokens that belong to none; and S as a 0-d tensor.
    """
    rows, length = facts.shape
    is_token_BT = torch.ones(rows, length, dtype=torch.bool, device=facts.device)
    if facts.attention_mask is not None:
        # While decoding with a cache the mask also covers the past; the new tokens are its end.
        is_token_BT = facts.attention_mask[:, -length:].to(facts.device).bool()
    starts_BT = torch.zeros_like(is_token_BT)
    if facts.position_ids is not None:
        starts_BT = example_starts(facts.position_ids.to(facts.device).expand(rows, length), is_token_BT)
    # The first real token starts an example whatever its position (left padding, decoding).
    is_first_BT = is_token_BT & (is_token_BT.cumsum(1) == 1)
    starts_BT = is_first_BT | (starts_BT & is_token_BT)
    segments_BT = (starts_BT.flatten().cumsum(0) - 1).view(rows, length)
    return segments_BT.masked_fill(~is_token_BT, -1), starts_BT.sum()


def find_prompts(segments_BT: Tensor, labels_BT: Tensor, num_segments: int) -> Tensor:
    """bool [B, T]: the tokens of each example before its first supervised one; all of them where there is none.

    Args:
        segments_BT: the example of each token, -1 for none.
        labels_BT: -100 where nothing is learned.
        num_segments: S.
    """
    is_token_BT = segments_BT >= 0
    is_supervised_N = ((labels_BT.to(segments_BT.device) != IGNORED) & is_token_BT).flatten()
    seen_N = is_supervised_N.cumsum(0)
    segments_N = segments_BT.flatten().clamp(min=0)
    before_S = torch.full((num_segments + 1,), is_supervised_N.numel(), device=segments_BT.device)
    before_S = before_S.scatter_reduce(0, segments_N, seen_N - is_supervised_N.long(), "amin")
    return is_token_BT & (seen_N == before_S[segments_N]).view_as(is_token_BT)


def bins_of(is_read_BT: Tensor, segments_BT: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """What a mean over some tokens of each example is made from.

    Returns:
        the example of each token that is read, S for the others, int64 [N]; and how many are read of each example, 1
        where there is none, [S, 1].
    """
    bins_N = torch.where(is_read_BT, segments_BT, num_segments).flatten()
    # Not by bincount, which makes the host wait for the largest bin.
    counts_S = torch.zeros(num_segments + 1, dtype=torch.int64, device=bins_N.device)
    counts_S.scatter_add_(0, bins_N, torch.ones_like(bins_N))
    return bins_N, counts_S[:num_segments].clamp(min=1).unsqueeze(-1)
