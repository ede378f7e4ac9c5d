"""Attention for packed rows: which kernel there is, and SDPA that visits each example of a row alone.

A packed row holds several examples one after another. Hugging Face's SDPA path masks them from each other with a
``[T, T]`` mask and so pays for every pair in the row; ``packed_sdpa`` gets the examples' lengths as FlashAttention
does (``cu_seq_lens_q``) and runs causal SDPA per example.

Shape suffixes: H heads, T tokens of the row, D head size, S examples of the row, L tokens of the longest example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

from llava_moe.errors import UserError

PACKED_SDPA = "packed_sdpa"
CHOICES = ("auto", "flash_attention_2", "flex_attention", "sdpa", PACKED_SDPA, "eager")


@dataclass(frozen=True)
class AttentionChoice:
    """The kernel of the language model and why it was taken."""

    name: str
    reason: str


def choose_attention(wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Name the attention kernel for the language model.

    ``auto`` takes FlashAttention 2 where it is installed on a CUDA machine and the model is in half precision, else
    SDPA per example. Flex attention is only taken when asked for: it compiles anew for each length of row, and has no
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


def packing_arguments(segment_lengths: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """Return the forward arguments that carry the examples' lengths to FlashAttention 2 and ``packed_sdpa``."""
    ends_S = torch.tensor(segment_lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    cumulative = F.pad(ends_S, (1, 0)).to(device)
    longest = max(segment_lengths)
    return {
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
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
    """Causal attention within each example of one packed row; plain SDPA when no lengths are given (generation).

    Args:
        query: ``[1, H, T, D]``; key and value may have fewer heads (grouped queries).
        kwargs: ``cu_seq_lens_q [S + 1]`` int32 and ``max_length_q``, as Hugging Face passes them to FlashAttention.

    Returns:
        ``[1, T, H, D]`` and None, the form of Hugging Face's attention functions.
    """
    cumulative = kwargs.get("cu_seq_lens_q")
    if cumulative is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    assert query.shape[0] == 1, "a packed row is a batch of one"
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    num_tokens, longest = query.shape[2], int(kwargs["max_length_q"])
    num_examples = cumulative.shape[0] - 1
    if num_examples * longest > 2 * num_tokens:
        parts = [part.split(cumulative.diff().tolist(), dim=2) for part in (query, key, value)]
        outputs = [
            F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True)
            for q, k, v in zip(*parts, strict=True)
        ]
        return torch.cat(outputs, dim=2).transpose(1, 2), None
    gather_SL, scatter_T = _padded_index(cumulative, longest, num_tokens)
    q, k, v = (part[0].transpose(0, 1)[gather_SL].transpose(1, 2) for part in (query, key, value))
    output_SHLD = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True)
    output_THD = output_SHLD.transpose(1, 2).flatten(0, 1)[scatter_T]
    return output_THD[None], None


def _padded_index(cumulative: torch.Tensor, longest: int, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Index maps between the row and its examples laid side by side, padded on the right.

    Padding repeats a token of the row: it stands behind every real token of its example, so the causal mask hides it.
    """
    starts_S = cumulative[:-1].long()
    lengths_S = cumulative.diff().long()
    offsets_L = torch.arange(longest, device=cumulative.device)
    gather_SL = (starts_S[:, None] + offsets_L).clamp(max=num_tokens - 1)
    example_T = torch.repeat_interleave(lengths_S, output_size=num_tokens)
    scatter_T = example_T * longest + torch.arange(num_tokens, device=cumulative.device) - starts_S[example_T]
    return gather_SL, scatter_T
