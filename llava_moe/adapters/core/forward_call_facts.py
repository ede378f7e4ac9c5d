"""What a language model was called with, as far as it tells examples and prompts.

Shape suffixes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class ForwardCallFacts:
    """What one call of a language model said. It is never changed.

    Attributes:
        shape: (B, T).
        device: where the tokens lie.
        position_ids: [B or 1, T]; where they restart, an example starts.
        attention_mask: [B, T or more], zero where a token is silent.
        labels: [B, T], -100 where nothing is learned.
        is_training: whether the model was in training mode.
        records_graph: whether gradients were recorded.
        cache_was_filled: whether it came with a cache that held tokens.
        tokens: ids [B, T] or embeddings [B, T, D], where prompts are read as text.
        is_text: bool [B, T], not a place of an image.
        num_examples: of all rows together, where the caller knows it.
        embed: the table that turns ids into embeddings; ``None`` where ``tokens`` are embeddings.
    """

    shape: tuple[int, int]
    device: torch.device
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    is_training: bool = False
    records_graph: bool = False
    cache_was_filled: bool = False
    tokens: Tensor | None = None
    is_text: Tensor | None = None
    embed: nn.Module | None = None
    num_examples: int | None = None
