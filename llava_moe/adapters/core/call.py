"""One call of a language model: how its tokens fall into examples and prompts, and what was decided for it.

Shape suffixes: B rows, T tokens, N = B * T, D hidden, S examples of all rows together in reading order, X any.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llava_moe.packed_rows import example_starts

IGNORED = -100


@dataclass(eq=False)
class Call:
    """What a language model was called with, and what follows from it, computed when it is first asked for.

    A call is remembered until nothing of it can be computed again, so it holds no autograd graph.

    Attributes:
        shape: (B, T).
        device: where the tokens lie.
        position_ids: [B or 1, T]; where they restart, an example starts.
        attention_mask: [B, T or more], zero where a token is silent.
        labels: [B, T], -100 where nothing is learned.
        is_training: whether the model was in training mode.
        records_graph: whether gradients were recorded when it was called.
        continues_cache: whether it goes on with a conversation.
        cache_was_filled: whether it came with a cache that held tokens.
        tokens: ids [B, T] or embeddings [B, T, D], where prompts are read as text.
        is_text: [B, T], not a place of an image.
        embed: the table that turns ids into embeddings; ``None`` where ``tokens`` are embeddings.
        decided: what gates decided in the forward pass, for its recomputation: by gate, cut off from its graph.
    """

    shape: tuple[int, int]
    device: torch.device
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    is_training: bool = False
    records_graph: bool = False
    continues_cache: bool = False
    cache_was_filled: bool = False
    tokens: Tensor | None = None
    is_text: Tensor | None = None
    embed: nn.Module | None = None
    instruction_SD: Tensor | None = None
    decided: dict[nn.Module, Tensor] = field(default_factory=dict)
    _examples: tuple[Tensor, Tensor] | None = None
    _num_segments: int | None = None
    _bins: tuple[Tensor, Tensor] | None = None

    @property
    def num_segments(self) -> int:
        """S. Costs one device synchronisation for each call of the model."""
        if self._num_segments is None:
            self._num_segments = int(self.of_tokens()[1])
        return self._num_segments

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        """The example of each token, int64 [B, T], -1 for tokens that belong to none; and S as a 0-d tensor."""
        if self._examples is None:
            self._examples = self._number_examples()
        return self._examples

    def _number_examples(self) -> tuple[Tensor, Tensor]:
        rows, length = self.shape
        is_token_BT = torch.ones(rows, length, dtype=torch.bool, device=self.device)
        if self.attention_mask is not None:
            # While decoding with a cache the mask also covers the past; the new tokens are its end.
            is_token_BT = self.attention_mask[:, -length:].to(self.device).bool()
        starts_BT = torch.zeros_like(is_token_BT)
        if self.position_ids is not None:
            starts_BT = example_starts(self.position_ids.to(self.device).expand(rows, length), is_token_BT)
        # The first real token starts an example whatever its position (left padding, decoding).
        is_first_BT = is_token_BT & (is_token_BT.cumsum(1) == 1)
        starts_BT = is_first_BT | (starts_BT & is_token_BT)
        segments_BT = (starts_BT.flatten().cumsum(0) - 1).view(rows, length)
        return segments_BT.masked_fill(~is_token_BT, -1), starts_BT.sum()

    def is_prompt(self) -> Tensor:
        """bool [B, T]: the tokens from which an example's decisions are made."""
        segments_BT, _ = self.of_tokens()
        is_token_BT = segments_BT >= 0
        if self.labels is None:
            if self.is_training:
                warnings.warn(
                    "an adapter that decides from the prompt is training without labels: the answer counts as prompt; "
                    "call the model with labels=, or attached.mark_prompts(labels) before it",
                    stacklevel=2,
                )
            return is_token_BT
        is_supervised_N = ((self.labels.to(self.device) != IGNORED) & is_token_BT).flatten()
        seen_N = is_supervised_N.cumsum(0)
        segments_N = segments_BT.flatten().clamp(min=0)
        before_S = torch.full((self.num_segments + 1,), is_supervised_N.numel(), device=self.device)
        before_S = before_S.scatter_reduce(0, segments_N, seen_N - is_supervised_N.long(), "amin")
        return is_token_BT & (seen_N == before_S[segments_N]).view_as(is_token_BT)

    def bins(self) -> tuple[Tensor, Tensor]:
        """:meth:`bins_of` the prompts."""
        if self._bins is None:
            self._bins = self.bins_of(self.is_prompt())
        return self._bins

    def bins_of(self, is_read_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The example of each token that is read, S for the others; and how many are read of each example, [S, 1]."""
        num_segments = self.num_segments
        bins_N = torch.where(is_read_BT, self.of_tokens()[0], num_segments).flatten()
        counts_S = torch.bincount(bins_N, minlength=num_segments + 1)[:num_segments]
        return bins_N, counts_S.clamp(min=1).unsqueeze(-1)
