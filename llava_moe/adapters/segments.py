"""Which packed example each token belongs to, read from what the language model is called with.

Shape suffixes: B rows, T tokens, S examples (segments) of all rows together, in reading order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Segments:
    """Remembers the last call of a language model and says how its tokens fall into examples.

    ``position_ids`` that restart are the source of truth, by the rule with which transformers builds its packed mask (a
    position that is not its predecessor plus one starts an example). Tokens that a 2-D ``attention_mask`` silences
    belong to none. Without either, a row is one example.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, int] | None = None
        self._device = torch.device("cpu")
        self._position_ids: Tensor | None = None
        self._attention_mask: Tensor | None = None

    def watch(self, language_model: nn.Module) -> torch.utils.hooks.RemovableHandle:
        """Read every call of ``language_model``; returns the handle that stops it."""
        return language_model.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Hugging Face passes all by keyword; input_ids and attention_mask lead the signature when given by position.
        named = dict(zip(("input_ids", "attention_mask", "position_ids"), args, strict=False)) | kwargs
        tokens = named.get("inputs_embeds") if named.get("inputs_embeds") is not None else named.get("input_ids")
        if tokens is None:
            raise ValueError("the language model was called with neither input_ids nor inputs_embeds")
        mask, positions = named.get("attention_mask"), named.get("position_ids")
        self._shape, self._device = (tokens.shape[0], tokens.shape[1]), tokens.device
        self._attention_mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        self._position_ids = positions if isinstance(positions, Tensor) and positions.ndim == 2 else None

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        """Number the examples of the last call.

        Returns:
            ``segments_BT`` int64, the example of each token counted through all rows, -1 for tokens that belong to
            none; and their number S as a 0-d tensor, so that asking costs no device synchronisation.

        Raises:
            ValueError: the language model was not called yet.
        """
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
        # The first real token starts an example whatever its position (left padding, decoding).
        is_first_BT = is_token_BT & (is_token_BT.cumsum(1) == 1)
        starts_BT = is_first_BT | (starts_BT & is_token_BT)
        segments_BT = (starts_BT.flatten().cumsum(0) - 1).view(rows, length)
        return segments_BT.masked_fill(~is_token_BT, -1), starts_BT.sum()
