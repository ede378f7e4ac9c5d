"""Which packed example each token belongs to and which tokens are its prompt, read from the calls of the models.

Shape suffixes: B rows, T tokens, N = B * T, D in, S examples (segments) of all rows together in reading order, X any.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from llava_moe.adapters.bin_mean import mean_by_bin
from llava_moe.kv_cache import cached_length, check_cache_name
from llava_moe.packed_rows import named_arguments

IGNORED = -100
# What is known of one call of the language model.
_OF_A_CALL = (
    *("_shape", "_device", "_position_ids", "_attention_mask", "_labels", "_is_training", "_continues_cache"),
    *("_examples", "_num_segments", "_bins"),
)
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
        self._shape: tuple[int, int] | None = None
        self._device = torch.device("cpu")
        self._position_ids: Tensor | None = None
        self._attention_mask: Tensor | None = None
        self._told_labels: Tensor | None = None
        self._labels: Tensor | None = None
        self._is_training = False
        self._continues_cache = False
        self.cache_was_filled = False
        self._examples: tuple[Tensor, Tensor] | None = None
        self._num_segments: int | None = None
        self._bins: tuple[Tensor, Tensor] | None = None
        self._pooled: tuple[weakref.ref[Tensor], Tensor, set[int]] | None = None
        self._last_call: weakref.ref[Tensor] | None = None
        self._conversation: Tensor | None = None
        self._calls: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._pools = False
        self._told_is_text: Tensor | None = None
        self._is_text: Tensor | None = None
        self._tokens: Tensor | None = None
        self._embed: nn.Module | None = None
        self._instruction: Tensor | None = None

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
            if name.endswith("self_attn"):
                handles.append(module.register_forward_pre_hook(self._recall, with_kwargs=True))
        if model is not None and model is not language_model:
            handles.append(model.register_forward_pre_hook(self._read_labels, with_kwargs=True))
            # Labels of a call that failed on its way must not be taken for those of the next.
            handles.append(model.register_forward_hook(self._forget_told, always_call=True))
        return handles

    def _forget_told(self, *_: Any) -> None:
        self._told_labels, self._told_is_text = None, None

    def _recall(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Go back to the call that an attention belongs to, when checkpointing computes it again.

        By then another call may have been seen. Rotary embeddings are made anew for each call of the language model and
        are handed to all its layers, so they name it.
        """
        key = kwargs.get("position_embeddings")
        key = key[0] if isinstance(key, tuple) else key
        if not isinstance(key, Tensor):
            return
        if torch._C._current_graph_task_id() == -1:
            self._calls[key] = {name: getattr(self, name) for name in _OF_A_CALL}
        elif key in self._calls:
            vars(self).update(self._calls[key], _pooled=None)

    def mark_prompts(self, labels_BT: Tensor | None) -> None:
        """Say the labels of the next call, for a loop that computes its own loss; -100 where nothing is learnt."""
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

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = named_arguments(module, args, kwargs)
        tokens = named.get("inputs_embeds") if named.get("inputs_embeds") is not None else named.get("input_ids")
        if tokens is None:
            raise ValueError("the language model was called with neither input_ids nor inputs_embeds")
        positions = named.get("position_ids")
        self._shape, self._device = (tokens.shape[0], tokens.shape[1]), tokens.device
        self._position_ids = _text_positions(positions)
        self._labels, self._told_labels = self._told_labels, None
        if self._labels is not None and tuple(self._labels.shape) != self._shape:
            raise ValueError(f"labels are {tuple(self._labels.shape)}, the language model got {self._shape} tokens")
        self._is_training = module.training
        self.cache_was_filled = self._continues_cache = cached_length(named) > 0
        self._attention_mask = _padding(named.get("attention_mask"), *self._shape, self._continues_cache)
        self._examples, self._num_segments, self._bins, self._pooled = None, None, None, None
        if self.reads_text:
            self._read_text(module, tokens)
        self._last_call = weakref.ref(tokens)
        self._follow_conversation(tokens)

    def _read_text(self, language_model: Any, tokens: Tensor) -> None:
        self._tokens, self._instruction = tokens.detach(), None
        self._embed = language_model.get_input_embeddings() if tokens.ndim == 2 else None
        self._is_text, self._told_is_text = self._told_is_text, None
        if self._is_text is not None and tuple(self._is_text.shape) != self._shape:
            raise ValueError(f"input_ids are {tuple(self._is_text.shape)}, the language model got {self._shape} tokens")

    def _follow_conversation(self, tokens: Tensor) -> None:
        """Notice a call without cache whose input begins with the whole of the last prompt: it goes on with it."""
        if not self._pools or self._continues_cache:
            return
        before, self._conversation = self._conversation, None
        if self._is_training or self._labels is not None:
            return
        self._conversation = tokens.detach()
        if before is None or before.ndim != tokens.ndim or before.shape[0] != tokens.shape[0]:
            return
        # A row of several examples is no conversation, even where it begins with one.
        is_longer = before.shape[1] < tokens.shape[1] and self.num_segments == len(tokens)
        if is_longer and torch.equal(before, tokens[:, : before.shape[1]]):
            self._continues_cache, self._conversation = True, before

    def forget_conversation(self) -> None:
        """Take the next call without a filled cache for a new conversation."""
        self._conversation = None

    @property
    def is_decoding(self) -> bool:
        """Whether the last call went on with a conversation: then what its first prompt decided still holds.

        It did if its cache was filled, or if, without cache, its input begins with that whole prompt.
        """
        return self._continues_cache

    @property
    def num_segments(self) -> int:
        """S, the examples of the last call. Costs one device synchronisation for each call of the model."""
        if self._num_segments is None:
            self._num_segments = int(self.of_tokens()[1])
        return self._num_segments

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        """Number the examples of the last call.

        Returns:
            ``segments_BT`` int64, the example of each token counted through all rows, -1 for tokens that belong to
            none; and their number S as a 0-d tensor, so that asking costs no device synchronisation.

        Raises:
            ValueError: the language model was not called yet.
        """
        if self._examples is None:
            self._examples = self._number_examples()
        return self._examples

    def _number_examples(self) -> tuple[Tensor, Tensor]:
        if self._shape is None:
            raise ValueError("no forward pass has been seen since the adapter was attached")
        (rows, length), device = self._shape, self._device
        is_token_BT = torch.ones(rows, length, dtype=torch.bool, device=device)
        if self._attention_mask is not None:
            # While decoding with a cache the mask also covers the past; the new tokens are its end.
            is_token_BT = self._attention_mask[:, -length:].to(device).bool()
        starts_BT = torch.zeros_like(is_token_BT)
        if self._position_ids is not None:
            positions_BT = self._position_ids.to(device).expand(rows, length)
            starts_BT[:, 1:] = positions_BT[:, 1:] != positions_BT[:, :-1] + 1
            # Nor does a token start an example that goes on after silent ones, as a batch of conversations does.
            columns_T = torch.arange(length, device=device)
            last_BT = torch.where(is_token_BT, columns_T, -1).cummax(1).values[:, :-1].clamp(min=0)
            starts_BT[:, 1:] &= positions_BT[:, 1:] != positions_BT.gather(1, last_BT) + 1
        # The first real token starts an example whatever its position (left padding, decoding).
        is_first_BT = is_token_BT & (is_token_BT.cumsum(1) == 1)
        starts_BT = is_first_BT | (starts_BT & is_token_BT)
        segments_BT = (starts_BT.flatten().cumsum(0) - 1).view(rows, length)
        return segments_BT.masked_fill(~is_token_BT, -1), starts_BT.sum()

    def is_prompt(self) -> Tensor:
        """bool [B, T]: the tokens from which an example's decisions are made, as the class says."""
        segments_BT, _ = self.of_tokens()
        is_token_BT = segments_BT >= 0
        if self._labels is None:
            if self._is_training:
                warnings.warn(
                    "an adapter that decides from the prompt is training without labels: the answer counts as prompt; "
                    "call the model with labels=, or attached.mark_prompts(labels) before it",
                    stacklevel=2,
                )
            return is_token_BT
        is_supervised_N = ((self._labels.to(self._device) != IGNORED) & is_token_BT).flatten()
        seen_N = is_supervised_N.cumsum(0)
        segments_N = segments_BT.flatten().clamp(min=0)
        before_S = torch.full((self.num_segments + 1,), is_supervised_N.numel(), device=self._device)
        before_S = before_S.scatter_reduce(0, segments_N, seen_N - is_supervised_N.long(), "amin")
        return is_token_BT & (seen_N == before_S[segments_N]).view_as(is_token_BT)

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
        if self._bins is None:
            self._bins = self._bins_of(self.is_prompt())
        if len(self._bins[0]) != x_BTD.shape[:-1].numel():
            seen = f"the language model was last called with {len(self._bins[0])} tokens"
            raise ValueError(f"{seen}, this part of it alone with {x_BTD.shape[:-1].numel()}: call the whole model")
        pooled_SD = mean_by_bin(x_BTD, *self._bins)
        if reader is not None:
            # A weak reference, so as not to keep the input alive.
            self._pooled = weakref.ref(x_BTD), pooled_SD, {id(reader)}
        return pooled_SD

    def _follow_from_now(self) -> None:
        if not self._pools:
            self._pools = True
            # Only now is it known that conversations matter: this one's prompt was not remembered yet.
            tokens = None if self._last_call is None else self._last_call()
            if tokens is not None:
                self._follow_conversation(tokens)

    def pool_instruction(self) -> Tensor:
        """Mean of the word embeddings of each example's prompt without its images: [S, D], fp32 or wider, no gradient.

        Needs :attr:`reads_text`. Which tokens stand for images is read from the ``input_ids`` and the configuration of
        the model around the language model; where it is called without ``input_ids``, every token counts as text.
        """
        self._follow_from_now()
        if self._instruction is None:
            assert self._tokens is not None, "reads_text is set before the language model is called"
            is_read_BT = self.is_prompt()
            if self._is_text is not None:
                is_read_BT = is_read_BT & self._is_text.to(self._device)
            with torch.no_grad():
                embeds_BTD = self._tokens if self._embed is None else self._embed(self._tokens)
                self._instruction = mean_by_bin(embeds_BTD, *self._bins_of(is_read_BT))
        return self._instruction

    def _bins_of(self, is_read_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The example of each token that is read, S for the others; and how many are read of each example, [S, 1]."""
        num_segments = self.num_segments
        bins_N = torch.where(is_read_BT, self.of_tokens()[0], num_segments).flatten()
        counts_S = torch.bincount(bins_N, minlength=num_segments + 1)[:num_segments]
        return bins_N, counts_S.clamp(min=1).unsqueeze(-1)

    def spread(self, values_SX: Tensor) -> Tensor:
        """Hand each token its example's row of ``values_SX``: [B, T, X]. Tokens of no example get some row."""
        return values_SX[self.of_tokens()[0].clamp(min=0)]

    def __getstate__(self) -> dict[str, Any]:
        # What was seen hangs on autograd graphs and weak references, which neither deepcopy nor pickle can take along.
        return {"_pools": self._pools, "reads_text": self.reads_text}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(Segments()) | state)


def _text_positions(positions: Any) -> Tensor | None:
    if not isinstance(positions, Tensor):
        return None
    if positions.ndim == 3 and positions.shape[0] == 4:
        return positions[0]
    return positions if positions.ndim == 2 else None


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
