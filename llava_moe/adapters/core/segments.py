"""Which packed example each token belongs to and which tokens are its prompt, read from the calls of the models.

Shape suffixes: B rows, T tokens, N = B * T, D in, S examples (segments) of all rows together in reading order, X any.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from llava_moe.adapters.core.call import Call
from llava_moe.adapters.core.segment_mean import mean_by_bin
from llava_moe.adapters.core.target_model import Body
from llava_moe.kv_cache import cached_length, check_cache_name
from llava_moe.packed_rows import named_arguments, text_positions

# What a model makes for each call of it and hands to the attention of every layer: it names the call.
NAMES_OF_A_CALL = ("position_embeddings", "alibi", "position_bias", "position_ids")
# How the configurations of transformers call the tokens whose places images and videos take.
PLACEHOLDERS = ("image_token_id", "video_token_id")


class Segments:
    """Remembers the last call of a language model and says how its tokens fall into examples and prompts.

    ``position_ids`` that restart are the source of truth, by the rule with which transformers builds its packed mask (a
    position that is not its predecessor plus one starts an example). Tokens that a 2-D ``attention_mask`` silences
    belong to none. Without either, a row is one example. Multimodal positions (Qwen2-VL's three axes) do not count;
    where a fourth, leading axis holds text positions, that one does.

    A prompt is what comes before an example's first supervised token, by the ``labels`` that the model was called with
    or that :meth:`mark_prompts` was told. Without labels a prompt is the whole example, as in generation.

    Attributes:
        reads_text: whether to remember what :meth:`pool_instruction` needs; set by who will ask for it.
    """

    def __init__(self) -> None:
        self.reads_text = False
        self._last: Call | None = None
        self._recalled: Call | None = None
        self._calls: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._pending, self._guessed_in = 0, -1
        self._told_labels: Tensor | None = None
        self._told_is_text: Tensor | None = None
        self._pooled: tuple[weakref.ref[Tensor], Tensor, set[int]] | None = None
        self._last_tokens: weakref.ref[Tensor] | None = None
        self._conversation: Tensor | None = None
        self._pools = False

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
            if _may_name_a_call(name, module):
                handles.append(module.register_forward_pre_hook(self._recall, with_kwargs=True))
        if model is not None and model is not language_model:
            handles.append(model.register_forward_pre_hook(self._read_labels, with_kwargs=True))
            # Labels of a call that failed on its way must not be taken for those of the next.
            handles.append(model.register_forward_hook(self._forget_told, always_call=True))
        return handles

    def _forget_told(self, *_: Any) -> None:
        self._told_labels, self._told_is_text = None, None

    # --- calls -------------------------------------------------------------------------------------------------------

    @property
    def is_recomputing(self) -> bool:
        """Whether a backward pass is under way: what runs now is computed again, for a call that is long over."""
        return torch._C._current_graph_task_id() != -1

    @property
    def call(self) -> Call:
        """The last call; while a layer is computed again, the one that it belongs to.

        Raises:
            ValueError: the language model was not called yet.
        """
        if self._recalled is not None and self.is_recomputing:
            return self._recalled
        if self._last is None:
            raise ValueError("no forward pass has been seen since the adapter was attached")
        return self._last

    def go_back_to(self, call: Call) -> None:
        """Say which call is computed again from here on, until another is named or the backward pass ends."""
        if self._recalled is not call:
            self._recalled, self._pooled = call, None

    def _recall(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Go back to the call that an attention belongs to, when checkpointing computes it again.

        By then other calls may have been seen. What is made for each call of the language model and handed to all its
        layers, such as rotary embeddings, names it.
        """
        given = [kwargs.get(name) for name in NAMES_OF_A_CALL]
        keys = [key[0] if isinstance(key, tuple) and key else key for key in given]
        keys = [key for key in keys if isinstance(key, Tensor)]
        if not self.is_recomputing:
            if self._last is not None:
                for key in keys[:1]:
                    self._calls[key] = self._last
            return
        found = next((self._calls[key] for key in keys if key in self._calls), None)
        self.go_back_to(self._only_call(module) if found is None else found)

    def _only_call(self, module: nn.Module) -> Call:
        """The last call, where there is no doubt that it is what is computed again."""
        task = torch._C._current_graph_task_id()
        if task != self._guessed_in:
            self._guessed_in, pending, self._pending = task, self._pending, 0
            if pending > 1 or self._last is None or not self._last.is_training:
                raise ValueError(
                    f"{type(module).__name__} does not say which of several forward passes is computed again: under "
                    "activation checkpointing run this model's backward pass right after each forward pass"
                )
        assert self._last is not None
        return self._last

    def mark_prompts(self, labels_BT: Tensor | None) -> None:
        """Say the labels of the next call, for a loop that computes its own loss; -100 where nothing is learned."""
        self._told_labels = labels_BT

    def _read_labels(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        labels = kwargs.get("labels")
        if labels is None and len(args) > 1:
            labels = inspect.signature(module.forward).bind_partial(*args).arguments.get("labels")
        if isinstance(labels, Tensor) and labels.ndim == 2:
            self._told_labels = labels
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        if self.reads_text and isinstance(input_ids, Tensor):
            config = getattr(module, "config", None)
            stand_ins = [getattr(config, name, None) for name in PLACEHOLDERS]
            known = input_ids.new_tensor([token for token in stand_ins if token is not None])
            self._told_is_text = ~torch.isin(input_ids, known)

    def _read(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        named = named_arguments(module, args, kwargs)
        tokens = named.get("inputs_embeds") if named.get("inputs_embeds") is not None else named.get("input_ids")
        if tokens is None:
            raise ValueError("the language model was called with neither input_ids nor inputs_embeds")
        shape = (tokens.shape[0], tokens.shape[1])
        labels, self._told_labels = self._told_labels, None
        if labels is not None and tuple(labels.shape) != shape:
            raise ValueError(f"labels are {tuple(labels.shape)}, the language model got {shape} tokens")
        cache_was_filled = cached_length(named) > 0
        self._last = Call(
            shape,
            tokens.device,
            position_ids=text_positions(named.get("position_ids")),
            attention_mask=_padding(named.get("attention_mask"), *shape, cache_was_filled),
            labels=labels,
            is_training=module.training,
            records_graph=torch.is_grad_enabled(),
            continues_cache=cache_was_filled,
            cache_was_filled=cache_was_filled,
        )
        self._pending += module.training and torch.is_grad_enabled()
        self._recalled = self._pooled = None
        if self.reads_text:
            self._read_text(self._last, module, tokens)
        self._last_tokens = weakref.ref(tokens)
        self._follow_conversation(tokens)
        if isinstance(kwargs.get("position_ids"), Tensor):
            # The caller may hand the same tensor to several calls; a view of it names this one alone.
            return args, kwargs | {"position_ids": kwargs["position_ids"].view_as(kwargs["position_ids"])}
        return None

    def _read_text(self, call: Call, language_model: Any, tokens: Tensor) -> None:
        call.tokens = tokens.detach()
        call.embed = language_model.get_input_embeddings() if tokens.ndim == 2 else None
        call.is_text, self._told_is_text = self._told_is_text, None
        if call.is_text is not None and tuple(call.is_text.shape) != call.shape:
            raise ValueError(f"input_ids are {tuple(call.is_text.shape)}, the language model got {call.shape} tokens")

    def _follow_conversation(self, tokens: Tensor) -> None:
        """Notice a call without cache whose input begins with the whole of the last prompt: it goes on with it."""
        call = self.call
        if not self._pools or call.continues_cache:
            return
        before, self._conversation = self._conversation, None
        if call.is_training or call.labels is not None:
            return
        self._conversation = tokens.detach()
        if before is None or before.ndim != tokens.ndim or before.shape[0] != tokens.shape[0]:
            return
        # A row of several examples is no conversation, even where it begins with one.
        is_longer = before.shape[1] < tokens.shape[1] and call.num_segments == len(tokens)
        if is_longer and torch.equal(before, tokens[:, : before.shape[1]]):
            call.continues_cache, self._conversation = True, before

    def forget_conversation(self) -> None:
        """Take the next call without a filled cache for a new conversation."""
        self._conversation = None

    # --- what the call's tokens are ----------------------------------------------------------------------------------

    @property
    def is_decoding(self) -> bool:
        """Whether the call went on with a conversation: then what its first prompt decided still holds.

        It did if its cache was filled, or if, without cache, its input begins with that whole prompt.
        """
        return self.call.continues_cache

    @property
    def cache_was_filled(self) -> bool:
        """Whether the call came with a cache that held tokens."""
        return self.call.cache_was_filled

    @property
    def num_segments(self) -> int:
        """S, the examples of the call. Costs one device synchronisation for each call of the model."""
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

    def is_prompt(self) -> Tensor:
        """bool [B, T]: the tokens from which an example's decisions are made, as the class says."""
        return self.call.is_prompt()

    def pool(self, x_BTD: Tensor, reader: object | None = None) -> Tensor:
        """Mean of ``x_BTD`` over each example's prompt: [S, D], fp32 or wider; 0 for an example without a prompt.

        Readers that say who they are and pool one input (the gates of q, k and v) share one mean. It is handed to each
        of them once: who asks again has begun another pass, which must not hang on the graph of the last.
        """
        self._follow_from_now()
        if self._pooled is not None and reader is not None:
            source, pooled_SD, readers = self._pooled
            if source() is x_BTD and id(reader) not in readers:
                readers.add(id(reader))
                return pooled_SD
        bins = self.call.bins()
        if len(bins[0]) != x_BTD.shape[:-1].numel():
            seen = f"the language model was last called with {len(bins[0])} tokens"
            raise ValueError(f"{seen}, this part of it alone with {x_BTD.shape[:-1].numel()}: call the whole model")
        pooled_SD = mean_by_bin(x_BTD, *bins)
        if reader is not None:
            # A weak reference, so as not to keep the input alive.
            self._pooled = weakref.ref(x_BTD), pooled_SD, {id(reader)}
        return pooled_SD

    def _follow_from_now(self) -> None:
        if not self._pools and not self.is_recomputing:
            self._pools = True
            # Only now is it known that conversations matter: this one's prompt was not remembered yet.
            tokens = None if self._last_tokens is None else self._last_tokens()
            if tokens is not None:
                self._follow_conversation(tokens)

    def pool_instruction(self) -> Tensor:
        """Mean of the word embeddings of each example's prompt without its images: [S, D], fp32 or wider, no gradient.

        Needs :attr:`reads_text`. Which tokens stand for images is read from the ``input_ids`` and the configuration of
        the model around the language model; where it is called without ``input_ids``, every token counts as text.
        """
        self._follow_from_now()
        call = self.call
        if call.instruction_SD is None:
            if call.tokens is None:
                raise ValueError("reads_text is set before the language model is called")
            is_read_BT = call.is_prompt()
            if call.is_text is not None:
                is_read_BT = is_read_BT & call.is_text.to(call.device)
            with torch.no_grad():
                embeds_BTD = call.tokens if call.embed is None else call.embed(call.tokens)
                call.instruction_SD = mean_by_bin(embeds_BTD, *call.bins_of(is_read_BT))
        return call.instruction_SD

    def spread(self, values_SX: Tensor) -> Tensor:
        """Hand each token its example's row of ``values_SX``: [B, T, X]. Tokens of no example get some row."""
        return values_SX[self.of_tokens()[0].clamp(min=0)]

    def __getstate__(self) -> dict[str, Any]:
        # What was seen hangs on autograd graphs and weak references, which neither deepcopy nor pickle can take along.
        return {"_pools": self._pools, "reads_text": self.reads_text}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(Segments()) | state)


def _may_name_a_call(name: str, module: nn.Module) -> bool:
    """Whether a module is the attention of a decoder layer: a part of it that is handed more than hidden states."""
    layer = Body.block_of(f"{name}.")
    if layer is None or name.rpartition(".")[0] != layer:
        return False
    parameters = inspect.signature(type(module).forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return takes_any or any(key in parameters for key in NAMES_OF_A_CALL)


def _padding(mask: Any, rows: int, length: int, continues_cache: bool) -> Tensor | None:
    """The padding mask [B, T or more] in what a language model is called with; ``None`` where it says nothing of it.

    Some models (Gemma 3), and generation with a static cache, hand it the attention's own masks, one or one for each
    kind of layer: [B, 1, T, keys], bool or 0 where seen. There padding is what does not see itself.
    """
    if isinstance(mask, Mapping):
        mask = next(iter(mask.values()), None)
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        return None
    if mask.ndim == 2:
        return mask
    if continues_cache or mask.shape[-1] < length:
        return None
    itself_BT = mask[:, 0, :, :length].diagonal(dim1=1, dim2=2).expand(rows, length)
    return itself_BT if itself_BT.dtype == torch.bool else itself_BT == 0
