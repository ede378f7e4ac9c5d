"""Reads the facts of a call from the arguments of a language model and of the model around it.

Shape suffixes: B rows, T tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.forward_call_facts import ForwardCallFacts
from llava_moe.kv_cache import cached_length
from llava_moe.packed_rows import named_arguments, text_positions

# How the configurations of transformers call the tokens whose places images and videos take.
PLACEHOLDERS = ("image_token_id", "video_token_id")


class ForwardCallReader:
    """Turns each call of a language model into :class:`ForwardCallFacts`.

    What the language model is not handed (labels, and which tokens are text) is read from the call of the model around
    it, and held until the language model is called.

    Attributes:
        reads_text: whether the facts are to hold the tokens, and which of them are text.
    """

    def __init__(self) -> None:
        self.reads_text = False
        self._labels: Tensor | None = None
        self._num_examples: int | None = None
        self._is_text: Tensor | None = None

    def watch_around(self, model: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        """Read every call of the model around the language model; returns the handles that stop it."""
        reading = model.register_forward_pre_hook(self._read_around, with_kwargs=True)
        # Labels of a call that failed on its way must not be taken for those of the next.
        return [reading, model.register_forward_hook(self._forget, always_call=True)]

    def mark_prompts(self, labels_BT: Tensor | None, num_examples: int | None = None) -> None:
        """Set the labels of the next call, and how many examples it packs."""
        self._labels, self._num_examples = labels_BT, num_examples

    def read(
        self, language_model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[ForwardCallFacts, Tensor]:
        """The facts of a call, and its tokens: ids [B, T] or embeddings [B, T, D].

        Raises:
            ValueError: there are no tokens, or labels or ``input_ids`` of another shape than theirs.
        """
        named = named_arguments(language_model, args, kwargs)
        tokens = named.get("inputs_embeds") if named.get("inputs_embeds") is not None else named.get("input_ids")
        if tokens is None:
            raise ValueError("the language model was called with neither input_ids nor inputs_embeds")
        shape = (tokens.shape[0], tokens.shape[1])
        labels, self._labels = self._labels, None
        num_examples, self._num_examples = self._num_examples, None
        positions = text_positions(named.get("position_ids"))
        if labels is not None and tuple(labels.shape) != shape:
            raise ValueError(f"labels are {tuple(labels.shape)}, the language model got {shape} tokens")
        cache_was_filled = cached_length(named) > 0
        facts = ForwardCallFacts(
            shape,
            tokens.device,
            position_ids=positions,
            attention_mask=read_padding(named.get("attention_mask"), *shape, cache_was_filled),
            labels=labels,
            is_training=language_model.training,
            records_graph=torch.is_grad_enabled(),
            cache_was_filled=cache_was_filled,
            # Positions that do not tell examples apart make one of each row.
            num_examples=None if positions is None else num_examples,
            **(self._read_text(language_model, tokens, shape) if self.reads_text else {}),
        )
        return facts, tokens

    def _read_text(self, language_model: Any, tokens: Tensor, shape: tuple[int, int]) -> dict[str, Any]:
        is_text, self._is_text = self._is_text, None
        if is_text is not None and tuple(is_text.shape) != shape:
            raise ValueError(f"input_ids are {tuple(is_text.shape)}, the language model got {shape} tokens")
        embed = language_model.get_input_embeddings() if tokens.ndim == 2 else None
        return {"tokens": tokens.detach(), "is_text": is_text, "embed": embed}

    def _read_around(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        labels = kwargs.get("labels")
        if labels is None and len(args) > 1:
            labels = inspect.signature(module.forward).bind_partial(*args).arguments.get("labels")
        if isinstance(labels, Tensor) and labels.ndim == 2:
            self._labels = labels
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        if self.reads_text and isinstance(input_ids, Tensor):
            config = getattr(module, "config", None)
            stand_ins = [getattr(config, name, None) for name in PLACEHOLDERS]
            known = input_ids.new_tensor([token for token in stand_ins if token is not None])
            self._is_text = ~torch.isin(input_ids, known)

    def _forget(self, *_: Any) -> None:
        self._labels, self._num_examples, self._is_text = None, None, None

    def __getstate__(self) -> dict[str, Any]:
        # What was heard belongs to a call that a copy will not see.
        return {"reads_text": self.reads_text}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(ForwardCallReader()) | state)


def read_padding(mask: Any, rows: int, length: int, cache_was_filled: bool) -> Tensor | None:
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
    if cache_was_filled or mask.shape[-1] < length:
        return None
    itself_BT = mask[:, 0, :, :length].diagonal(dim1=1, dim2=2).expand(rows, length)
    return itself_BT if itself_BT.dtype == torch.bool else itself_BT == 0
