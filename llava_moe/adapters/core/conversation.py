"""Tells without a cache whether a call goes on with the conversation of the last one.

Shape suffixes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from llava_moe.adapters.core.forward_call import ForwardCall


class ConversationTracker:
    """Remembers the prompt that began a conversation, and says of each later call whether it goes on with it.

    Comparing inputs costs time, so nothing is compared until somebody decides by the prompt: see :meth:`begin`.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._prompt: Tensor | None = None
        self._last: tuple[ForwardCall, weakref.ref[Tensor]] | None = None

    def follow(self, call: ForwardCall, tokens: Tensor) -> None:
        """Take notice of a call; ``continues_cache`` of one whose input begins with the whole prompt becomes true.

        Args:
            tokens: ids [B, T] or embeddings [B, T, D].
        """
        # A weak reference, so as not to keep the input alive.
        self._last = call, weakref.ref(tokens)
        if self._is_on:
            self._compare(call, tokens)

    def begin(self) -> None:
        """Compare from now on."""
        if self._is_on:
            return
        self._is_on = True
        # Only now is it known that conversations matter: this one's prompt was not remembered yet.
        if self._last is not None:
            call, reference = self._last
            tokens = reference()
            if tokens is not None:
                self._compare(call, tokens)

    def forget(self) -> None:
        """Take the next call without a filled cache for a new conversation."""
        self._prompt = None

    def _compare(self, call: ForwardCall, tokens: Tensor) -> None:
        if call.continues_cache:
            return
        before, self._prompt = self._prompt, None
        if call.facts.is_training or call.facts.labels is not None:
            return
        self._prompt = tokens.detach()
        # A row of several examples is no conversation, even where it begins with one.
        if before is None or not is_longer(tokens, before) or call.num_segments != len(tokens):
            return
        if torch.equal(before, tokens[:, : before.shape[1]]):
            call.continues_cache, self._prompt = True, before

    def __getstate__(self) -> dict[str, Any]:
        # A prompt belongs to a conversation, which neither deepcopy nor pickle takes along.
        return {"_is_on": self._is_on}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(ConversationTracker()) | state)


def is_longer(tokens: Tensor, before: Tensor) -> bool:
    """Whether ``tokens`` are of the kind and number of rows of ``before``, and each row is longer."""
    is_alike = before.ndim == tokens.ndim and before.shape[0] == tokens.shape[0]
    return is_alike and before.shape[1] < tokens.shape[1]
