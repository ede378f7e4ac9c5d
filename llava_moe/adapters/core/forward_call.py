"""One call of a language model: what it said, what follows from that, and what was decided for it.

Shape suffixes: B rows, T tokens, N = B * T, D hidden, S examples of all rows together in reading order.
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts
from llava_moe.adapters.core.segment_map import bins_of, find_prompts, number_examples


class ForwardCall:
    """A call, and what follows from its facts, computed when it is first asked for.

    A call is remembered until nothing of it can be computed again, so it holds no autograd graph.

    Attributes:
        facts: what the language model was called with.
        continues_cache: whether it goes on with a conversation, with or without a cache.
        instruction_SD: the mean of its prompts' word embeddings, once that was asked for.
        decided: what gates decided in the forward pass, for its recomputation: by gate, cut off from its graph.
    """

    def __init__(self, facts: ForwardCallFacts) -> None:
        self.facts = facts
        self.continues_cache = facts.cache_was_filled
        self.instruction_SD: Tensor | None = None
        self.decided: dict[nn.Module, Tensor] = {}
        self._examples: tuple[Tensor, Tensor] | None = None
        self._places: Tensor | None = None
        self._num_segments: int | None = None
        self._bins: tuple[Tensor, Tensor] | None = None

    @property
    def num_segments(self) -> int:
        """S. Costs one device synchronisation for each call of the model whose caller did not say it."""
        if self._num_segments is None:
            told = self.facts.num_examples
            self._num_segments = int(self.of_tokens()[1]) if told is None else told
        return self._num_segments

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        """The example of each token, int64 [B, T], -1 for tokens that belong to none; and S as a 0-d tensor."""
        if self._examples is None:
            self._examples = number_examples(self.facts)
        return self._examples

    def places_of_tokens(self) -> Tensor:
        """int64 [B, T], the example of each token, by which it can be looked up; 0 for tokens of none."""
        if self._places is None:
            self._places = self.of_tokens()[0].clamp(min=0)
        return self._places

    def is_prompt(self) -> Tensor:
        """bool [B, T]: the tokens from which an example's decisions are made; without labels, the whole example."""
        segments_BT, _ = self.of_tokens()
        if self.facts.labels is not None:
            return find_prompts(segments_BT, self.facts.labels, self.num_segments)
        if self.facts.is_training:
            warnings.warn(
                "an adapter that decides from the prompt is training without labels: the answer counts as prompt; "
                "call the model with labels=, or attached.mark_prompts(labels) before it",
                stacklevel=2,
            )
        return segments_BT >= 0

    def bins(self) -> tuple[Tensor, Tensor]:
        """:meth:`bins_of` the prompts."""
        if self._bins is None:
            self._bins = self.bins_of(self.is_prompt())
        return self._bins

    def bins_of(self, is_read_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The example of each token that is read, S for the others; and how many are read of each example, [S, 1]."""
        return bins_of(is_read_BT, self.of_tokens()[0], self.num_segments)
