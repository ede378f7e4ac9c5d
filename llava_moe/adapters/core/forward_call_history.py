"""Which call of a language model runs now: the last one, or the one whose layers are computed again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from llava_moe.adapters.core.backward_pass import OUTSIDE, current_backward_pass, is_recomputing
from llava_moe.adapters.core.forward_call import ForwardCall
from llava_moe.adapters.core.target_model import TargetModel

# What a model makes for each call of it and hands to the attention of every layer: it names the call.
NAMES_OF_A_CALL = ("position_embeddings", "alibi", "position_bias", "position_ids")


class ForwardCallHistory:
    """Remembers the calls that a backward pass may still compute again.

    Under activation checkpointing a layer runs again long after other calls were seen. What is made for each call of
    the language model and handed to all its layers, such as rotary embeddings, names the call; who dies with it, dies
    here too.
    """

    def __init__(self) -> None:
        self._last: ForwardCall | None = None
        self._recalled: ForwardCall | None = None
        self._calls: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._pending, self._guessed_in = 0, OUTSIDE

    @property
    def call(self) -> ForwardCall:
        """The last call; while a layer is computed again, the one that it belongs to.

        Raises:
            ValueError: there was none yet.
        """
        if self._recalled is not None and is_recomputing():
            return self._recalled
        if self._last is None:
            raise ValueError("no forward pass has been seen since the adapter was attached")
        return self._last

    @property
    def num_named(self) -> int:
        """How many names of calls are alive."""
        return len(self._calls)

    def begin(self, call: ForwardCall) -> None:
        """A call begins."""
        self._last, self._recalled = call, None
        self._pending += call.facts.is_training and call.facts.records_graph

    def go_back_to(self, call: ForwardCall) -> bool:
        """Say which call is computed again from here on; returns whether it is another than before."""
        if self._recalled is call:
            return False
        self._recalled = call
        return True

    def hear(self, attention: nn.Module, kwargs: Mapping[str, Any]) -> bool:
        """An attention runs: learn the names of its call, or go back to the call that they name.

        Returns:
            whether another call is computed again from here on.

        Raises:
            ValueError: nothing names the call that is computed again, and there is doubt which it is.
        """
        given = [kwargs.get(name) for name in NAMES_OF_A_CALL]
        keys = [key[0] if isinstance(key, tuple) and key else key for key in given]
        keys = [key for key in keys if isinstance(key, Tensor)]
        if not is_recomputing():
            if self._last is not None:
                for key in keys[:1]:
                    self._calls[key] = self._last
            return False
        found = next((self._calls[key] for key in keys if key in self._calls), None)
        return self.go_back_to(self._only_call(attention) if found is None else found)

    def _only_call(self, attention: nn.Module) -> ForwardCall:
        """The last call, where there is no doubt that it is what is computed again."""
        backward_pass = current_backward_pass()
        if backward_pass != self._guessed_in:
            self._guessed_in, pending, self._pending = backward_pass, self._pending, 0
            if pending > 1 or self._last is None or not self._last.facts.is_training:
                raise ValueError(
                    f"{type(attention).__name__} does not say which of several forward passes is computed again: under "
                    "activation checkpointing run this model's backward pass right after each forward pass"
                )
        assert self._last is not None
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        # Names are weak references to tensors, which neither deepcopy nor pickle can take along.
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(ForwardCallHistory()))


def may_name_a_call(name: str, module: nn.Module) -> bool:
    """Whether a module is the attention of a decoder layer: a part of it that is handed more than hidden states."""
    layer = TargetModel.block_of(f"{name}.")
    if layer is None or name.rpartition(".")[0] != layer:
        return False
    parameters = inspect.signature(type(module).forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return takes_any or any(key in parameters for key in NAMES_OF_A_CALL)
