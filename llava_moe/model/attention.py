"""Attention for packed rows: which kernel there is, and SDPA that visits each example of a row alone.

A packed row holds several examples one after another. Hugging Face's SDPA path masks them from each other with a
``[T, T]`` mask and so pays for every pair in the row; ``packed_sdpa`` is told where the examples are, as FlashAttention
is by ``cu_seq_lens_q``, and runs causal SDPA on each.

Shape suffixes: H heads, T tokens of the row, D head size, S examples of the row, L tokens of the longest example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.import_utils import is_flash_attn_2_available

from llava_moe.errors import UserError
from llava_moe.to_device import to_device

PACKED_SDPA = "packed_sdpa"
FEW_PAIRS = 4096
CHOICES = ("auto", "flash_attention_2", "flex_attention", "sdpa", PACKED_SDPA, "eager")


@dataclass(frozen=True)
class AttentionChoice:
    """The kernel of the language model and why it was taken."""

    name: str
    reason: str


def choose_attention(wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Name the attention kernel for the language model.

    ``auto`` takes FlashAttention 2 where it is installed on a CUDA machine and the model is in half precision, else
    SDPA per example. Flex attention is only taken when asked for: it compiles again for each length of row, and has no
    backward pass on CPU.

    Raises:
        UserError: the kernel asked for is unknown or not there.
    """
    register_packed_sdpa()
    flash_there = device.type == "cuda" and is_flash_attn_2_available()
    if wanted not in CHOICES:
        raise UserError(f"model.attn_implementation={wanted} is unknown: choose one of {', '.join(CHOICES)}")
    if wanted == "flash_attention_2" and not flash_there:
        raise UserError(
            "model.attn_implementation=flash_attention_2 needs a CUDA device and the flash-attn package: "
            "pip install flash-attn --no-build-isolation, or set model.attn_implementation=auto"
        )
    if wanted == "flex_attention" and device.type == "cpu":
        raise UserError("model.attn_implementation=flex_attention has no backward pass on CPU: set it to auto")
    if wanted != "auto":
        return AttentionChoice(wanted, "asked for")
    if flash_there and dtype in (torch.bfloat16, torch.float16):
        return AttentionChoice("flash_attention_2", "flash-attn is installed")
    missing = "no CUDA device" if device.type != "cuda" else "flash-attn is not installed"
    if device.type == "cuda" and dtype == torch.float32:
        missing = "the model is in float32"
    return AttentionChoice(PACKED_SDPA, missing)


def register_packed_sdpa() -> None:
    """Make ``packed_sdpa`` known to Hugging Face models; calling it twice changes nothing."""
    AttentionInterface.register(PACKED_SDPA, packed_sdpa_forward)
    AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)


@dataclass(frozen=True)
class PackedRow:
    """The examples of a packed row laid side by side for SDPA, those of like length together; one object serves all
    layers.

    Attributes:
        groups: (examples, tokens of the longest) of each group; group g fills ``examples * longest`` places.
        token_P: the row's token that stands at each place. Padding repeats a token behind every real one of its
            example, so that the causal mask hides it.
        place_T: the place of each of the row's tokens.
        padding_Q: the places that are padding.
    """

    groups: tuple[tuple[int, int], ...]
    token_P: torch.Tensor
    place_T: torch.Tensor
    padding_Q: torch.Tensor


def lay_out(segment_lengths: Sequence[int], device: torch.device) -> PackedRow:
    """Group examples of like length: one kernel call a group, and little padding (attention costs length squared)."""
    lengths = np.asarray(segment_lengths, dtype=np.int64)
    starts = lengths.cumsum() - lengths
    groups, tokens, offsets = [], [], []
    num_places = 0
    for members in _of_like_length(segment_lengths):
        longest = int(lengths[members[0]])
        inside = np.minimum(np.arange(longest), lengths[members, None] - 1)
        tokens.append((starts[members, None] + inside).ravel())
        offsets += [(member, num_places + at * longest) for at, member in enumerate(members)]
        groups.append((len(members), longest))
        num_places += len(members) * longest
    first_place = np.array([place for _, place in sorted(offsets)])
    place = np.repeat(first_place - starts, lengths) + np.arange(lengths.sum())
    is_padding = np.ones(num_places, dtype=bool)
    is_padding[place] = False
    maps = (np.concatenate(tokens), place, np.flatnonzero(is_padding))
    joined = to_device(torch.from_numpy(np.concatenate(maps)), device)
    return PackedRow(tuple(groups), *joined.split([len(one) for one in maps]))


def _of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the examples, longest first, in groups in which no example is padded by more than the kernel call of
    a group of its own would cost: half of its pairs of tokens, or a few thousand of them."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        longest = lengths[groups[-1][0]] if groups else 0
        padded_pairs = longest**2 - lengths[number] ** 2
        if groups and (padded_pairs <= longest**2 / 2 or padded_pairs <= FEW_PAIRS):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def packing_arguments(segment_lengths: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """Return the forward arguments that carry the examples' lengths to FlashAttention 2 and ``packed_sdpa``."""
    ends_S = torch.tensor(segment_lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    cumulative = to_device(F.pad(ends_S, (1, 0)), device)
    longest = max(segment_lengths)
    return {
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
        "packed_row": lay_out(segment_lengths, device),
    }


def packed_sdpa_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of one packed row; plain SDPA when no row is given (generation).

    Args:
        query: ``[1, H, T, D]``; key and value may have fewer heads (grouped queries).
        kwargs: ``packed_row``, as :func:`packing_arguments` made it; ``sliding_window`` of the layer (Mistral's).

    Returns:
        ``[1, T, H, D]`` and None, the form of Hugging Face's attention functions.
    """
    row: PackedRow | None = kwargs.get("packed_row")
    if row is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    assert query.shape[0] == 1, "a packed row is a batch of one"
    repeats = query.shape[1] // key.shape[1]
    places_PHD = [
        _Rearrange.apply(part[0].transpose(0, 1), row.token_P, row.place_T, None) for part in (query, key, value)
    ]
    sizes = [examples * longest for examples, longest in row.groups]
    outputs = []
    for group, *parts in zip(row.groups, *(part.split(sizes) for part in places_PHD), strict=True):
        q, k, v = (part.unflatten(0, group).transpose(1, 2) for part in parts)
        k, v = repeat_kv(k, repeats), repeat_kv(v, repeats)
        mask_LL = _window_mask(group[1], kwargs.get("sliding_window"), query.device)
        output_SHLD = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_LL, dropout_p=dropout, scale=scaling, is_causal=mask_LL is None
        )
        outputs.append(output_SHLD.transpose(1, 2).flatten(0, 1))
    output_PHD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return _Rearrange.apply(output_PHD, row.place_T, row.token_P, row.padding_Q)[None], None


def _window_mask(longest: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Bool [L, L]: a token sees itself and the ``window - 1`` before it; None where the window leaves nothing out."""
    if window is None or longest <= window:
        return None
    ones_LL = torch.ones((longest, longest), dtype=torch.bool, device=device)
    return ones_LL.tril().triu(1 - window)


class _Rearrange(torch.autograd.Function):
    """``x[index]`` along the first axis whose gradient is a gather too (autograd would add row by row).

    Args:
        back: where each row of ``x`` stands in the result; ``unread``: rows of ``x`` that are not read, whose entry of
            ``back`` means nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, unread: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.back, ctx.unread = back, unread
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        rows = gradient.index_select(0, ctx.back)
        return rows if ctx.unread is None else rows.index_fill_(0, ctx.unread, 0), None, None, None
