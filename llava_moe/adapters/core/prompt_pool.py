"""Means over the prompts of a call: what gates that decide by example read.

Shape suffixes: B rows, T tokens, D features, S examples.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from llava_moe.adapters.core.forward_call import ForwardCall
from llava_moe.adapters.core.segment_mean import mean_by_bin


class PromptPool:
    """Means over prompts, of which the last is shared by those who read one input (the gates of q, k and v).

    It is handed to each of them once: who asks again has begun another pass, which must not hang on the graph of the
    last.
    """

    def __init__(self) -> None:
        self._shared: tuple[weakref.ref[Tensor], Tensor, set[int]] | None = None

    def forget(self) -> None:
        """Share nothing that was computed before."""
        self._shared = None

    def pool(self, call: ForwardCall, x_BTD: Tensor, reader: object | None) -> Tensor:
        """Mean of ``x_BTD`` over each example's prompt: [S, D], fp32 or wider; 0 for an example without a prompt.

        Args:
            reader: who asks; ``None``: unknown, and nothing is shared.

        Raises:
            ValueError: ``x_BTD`` has not the call's number of tokens.
        """
        if self._shared is not None and reader is not None:
            source, pooled_SD, readers = self._shared
            if source() is x_BTD and id(reader) not in readers:
                readers.add(id(reader))
                return pooled_SD
        bins = call.bins()
        if len(bins[0]) != x_BTD.shape[:-1].numel():
            seen = f"the language model was last called with {len(bins[0])} tokens"
            raise ValueError(f"{seen}, this part of it alone with {x_BTD.shape[:-1].numel()}: call the whole model")
        pooled_SD = mean_by_bin(x_BTD, *bins)
        if reader is not None:
            # A weak reference, so as not to keep the input alive.
            self._shared = weakref.ref(x_BTD), pooled_SD, {id(reader)}
        return pooled_SD

    def __getstate__(self) -> dict[str, Any]:
        # A mean hangs on an autograd graph, which neither deepcopy nor pickle can take along.
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shared = None


def pool_text(call: ForwardCall) -> Tensor:
    """Mean of the word embeddings of each example's prompt without its images: [S, D], without gradient.

    Raises:
        ValueError: the call was not read with its tokens.
    """
    facts = call.facts
    if call.instruction_SD is None:
        if facts.tokens is None:
            raise ValueError("reads_text is set before the language model is called")
        is_read_BT = call.is_prompt()
        if facts.is_text is not None:
            is_read_BT = is_read_BT & facts.is_text.to(facts.device)
        with torch.no_grad():
            embeds_BTD = facts.tokens if facts.embed is None else facts.embed(facts.tokens)
            call.instruction_SD = mean_by_bin(embeds_BTD, *call.bins_of(is_read_BT))
    return call.instruction_SD
