"""Which packed example each token belongs to and which tokens are its prompt, read from the calls of the models.

Shape suffixes: B rows, T tokens, D in, S examples (segments) of all rows together in reading order, X any.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.backward_pass import is_recomputing
from llava_moe.adapters.core.conversation import ConversationTracker
from llava_moe.adapters.core.forward_call import ForwardCall
from llava_moe.adapters.core.forward_call_history import ForwardCallHistory, may_name_a_call
from llava_moe.adapters.core.forward_call_reader import ForwardCallReader
from llava_moe.adapters.core.prompt_pool import PromptPool, pool_text
from llava_moe.kv_cache import check_cache_name


class Segments:
    """Remembers the last call of a language model and says how its tokens fall into examples and prompts.

    ``position_ids`` that restart are the source of truth, by the rule with which transformers builds its packed mask (a
    position that is not its predecessor plus one starts an example). Tokens that a 2-D ``attention_mask`` silences
    belong to none. Without either, a row is one example. Multimodal positions (Qwen2-VL's three axes) do not count;
    where a fourth, leading axis holds text positions, that one does.

    A prompt is what comes before an example's first supervised token, by the ``labels`` that the model was called with
    or that :meth:`mark_prompts` was told. Without labels a prompt is the whole example, as in generation.

    Each part has one duty: ``reader`` turns calls into facts, ``history`` knows which call runs now, ``conversation``
    whether it goes on with the last one, ``prompts`` the means that are shared.
    """

    def __init__(self) -> None:
        self.reader, self.history = ForwardCallReader(), ForwardCallHistory()
        self.conversation, self.prompts = ConversationTracker(), PromptPool()

    def watch(
        self, language_model: nn.Module, model: nn.Module | None = None
    ) -> list[torch.utils.hooks.RemovableHandle]:
        """Read every call of ``language_model``, and the labels with which ``model`` around it is called.

        Returns the handles that stop it.

        Raises:
            ValueError: the language model takes its cache by a name that is not known here.
        """
        check_cache_name(type(language_model).forward)
        handles = [language_model.register_forward_pre_hook(self._read, with_kwargs=True)]
        for name, module in language_model.named_modules():
            if may_name_a_call(name, module):
                handles.append(module.register_forward_pre_hook(self._recall, with_kwargs=True))
        if model is not None and model is not language_model:
            handles += self.reader.watch_around(model)
        return handles

    def _read(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        facts, tokens = self.reader.read(module, args, kwargs)
        call = ForwardCall(facts)
        self.history.begin(call)
        self.prompts.forget()
        self.conversation.follow(call, tokens)
        if isinstance(kwargs.get("position_ids"), Tensor):
            # The caller may hand the same tensor to several calls; a view of it names this one alone.
            return args, kwargs | {"position_ids": kwargs["position_ids"].view_as(kwargs["position_ids"])}
        return None

    def _recall(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.history.hear(module, kwargs):
            self.prompts.forget()

    @property
    def is_recomputing(self) -> bool:
        """Whether a backward pass is under way: what runs now is computed again, for a call that is long over."""
        return is_recomputing()

    @property
    def call(self) -> ForwardCall:
        """The last call; while a layer is computed again, the one that it belongs to.

        Raises:
            ValueError: the language model was not called yet.
        """
        return self.history.call

    def go_back_to(self, call: ForwardCall) -> None:
        """Say which call is computed again from here on, until another is named or the backward pass ends."""
        if self.history.go_back_to(call):
            self.prompts.forget()

    def mark_prompts(self, labels_BT: Tensor | None, num_examples: int | None = None) -> None:
        """Say the labels of the next call, for a loop that computes its own loss; -100 where nothing is learned.

        Args:
            num_examples: how many its packed rows hold, which would otherwise be read from the device.
        """
        self.reader.mark_prompts(labels_BT, num_examples)

    def forget_conversation(self) -> None:
        """Take the next call without a filled cache for a new conversation."""
        self.conversation.forget()

    @property
    def is_decoding(self) -> bool:
        """Whether the call went on with a conversation: then what its first prompt decided still holds.

        It did if its cache was filled, or if, without cache, its input begins with that whole prompt.
        """
        return self.call.continues_cache

    @property
    def cache_was_filled(self) -> bool:
        """Whether the call came with a cache that held tokens."""
        return self.call.facts.cache_was_filled

    @property
    def num_segments(self) -> int:
        """S, the examples of the call; costs one device synchronisation where the caller did not say it."""
        return self.call.num_segments

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        """Number the examples of the call.

        Returns:
            ``segments_BT`` int64, the example of each token counted through all rows, -1 for tokens that belong to
            none; and their number S as a 0-d tensor, so that asking costs no device synchronisation.

        Raises:
            ValueError: the language model was not called yet.
        """
        return self.call.of_tokens()

    def places_of_tokens(self) -> Tensor:
        """int64 [B, T], the example of each token; some example for those that belong to none."""
        return self.call.places_of_tokens()

    def spread(self, values_SX: Tensor) -> Tensor:
        """Hand each token its example's row of ``values_SX``: [B, T, X]. Tokens of no example get some row."""
        return values_SX[self.places_of_tokens()]

    @property
    def reads_text(self) -> bool:
        """Whether to remember what :meth:`pool_instruction` needs; set by who will ask for it."""
        return self.reader.reads_text

    @reads_text.setter
    def reads_text(self, reads_text: bool) -> None:
        self.reader.reads_text = reads_text

    def is_prompt(self) -> Tensor:
        """bool [B, T]: the tokens from which an example's decisions are made, as the class says."""
        return self.call.is_prompt()

    def pool(self, x_BTD: Tensor, reader: object | None = None) -> Tensor:
        """Mean of ``x_BTD`` over each example's prompt: [S, D], fp32 or wider; 0 for an example without a prompt.

        Readers that say who they are and pool one input (the gates of q, k and v) share one mean.
        """
        self._follow_conversations()
        return self.prompts.pool(self.call, x_BTD, reader)

    def pool_instruction(self) -> Tensor:
        """Mean of the word embeddings of each example's prompt without its images: [S, D], fp32 or wider, no gradient.

        Needs :attr:`reads_text`. Which tokens stand for images is read from the ``input_ids`` and the configuration of
        the model around the language model; where it is called without ``input_ids``, every token counts as text.
        """
        self._follow_conversations()
        return pool_text(self.call)

    def _follow_conversations(self) -> None:
        # Who pools decides by the prompt. What is computed again was decided long ago.
        if not self.is_recomputing:
            self.conversation.begin()
