"""Packed rows equal their examples run alone, for every attention kernel that this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.errors import UserError
from llava_moe.model.attention import PACKED_SDPA, choose_attention, packed_sdpa_forward, packing_arguments

CPU = torch.device("cpu")
MODULE = cast(nn.Module, SimpleNamespace())


def reference_THD(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Causal softmax attention of each example by itself, written out."""
    outputs, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        scores = q[0, :, part] @ k[0, :, part].transpose(1, 2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        outputs.append((scores.softmax(-1) @ v[0, :, part]).transpose(0, 1))
        start += length
    return torch.cat(outputs)


@pytest.mark.parametrize("lengths", [(5,), (3, 1, 7), (41, 2, 3, 2), (9, 9, 9), (1, 1, 1), (20, 130, 7, 90, 125)])
def test_packed_sdpa_equals_attention_written_out_forward_and_every_gradient(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v = tensors = [torch.randn(1, 3, sum(lengths), 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    output, _ = packed_sdpa_forward(MODULE, q, k, v, None, **packing_arguments(lengths, CPU))
    expected = reference_THD(q, k, v, lengths)
    assert (output[0] - expected).abs().max() < 1e-12
    weights = torch.randn_like(expected)
    found = torch.autograd.grad((output[0] * weights).sum(), tensors)
    wanted = torch.autograd.grad((expected * weights).sum(), tensors)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("window", [1, 3, 8, 100])
def test_packed_sdpa_sees_no_further_than_a_sliding_window(window: int) -> None:
    torch.manual_seed(0)
    lengths = (20, 1, 9, 7, 18)
    q, k, v = tensors = [torch.randn(1, 3, sum(lengths), 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    packing = packing_arguments(lengths, CPU)
    output, _ = packed_sdpa_forward(MODULE, q, k, v, None, sliding_window=window, **packing)
    outputs, start = [], 0
    for length in lengths:
        for at in range(start, start + length):
            seen = slice(max(start, at + 1 - window), at + 1)
            query, key, value = tensors[0][0, :, at, :, None], tensors[1][0, :, seen], tensors[2][0, :, seen]
            outputs.append(((key @ query / 5**0.5).softmax(1) * value).sum(1))
        start += length
    expected = torch.stack(outputs)
    assert (output[0] - expected).abs().max() < 1e-12
    found, wanted = (torch.autograd.grad(one.square().sum(), tensors) for one in (output[0], expected))
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-12


def tiny_llama(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    choice = choose_attention(attention, CPU, torch.float32)
    return LlamaForCausalLM._from_config(config, attn_implementation=choice.name).eval()


@pytest.mark.parametrize("attention", ["auto", PACKED_SDPA, "sdpa", "eager"])
def test_packed_row_equals_examples_alone(attention: str) -> None:
    model = tiny_llama(attention)
    lengths = (7, 1, 12, 30)
    examples = [torch.randint(0, 50, (1, length)) for length in lengths]
    with torch.no_grad():
        row = model(
            input_ids=torch.cat(examples, 1),
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            use_cache=False,
            **packing_arguments(lengths, CPU),
        ).logits[0]
        alone = torch.cat([model(input_ids=example, use_cache=False).logits[0] for example in examples])
    assert (row - alone).abs().max() < 1e-5


def test_the_lengths_reach_the_attention_of_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(PACKED_SDPA)
    seen: list[torch.Size] = []
    original = F.scaled_dot_product_attention

    def noted(q: Tensor, *others: Any, **settings: Any) -> Tensor:
        seen.append(q.shape)
        return original(q, *others, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    lengths = (6, 5, 4)
    model(
        input_ids=torch.zeros(1, 15, dtype=torch.long),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        use_cache=False,
        **packing_arguments(lengths, CPU),
    )
    assert seen == [(3, 4, 6, 8)] * 2  # three examples side by side, four heads, six tokens, in both layers


def test_cached_generation_with_left_padding_equals_generation_alone() -> None:
    model: Any = tiny_llama(PACKED_SDPA)
    prompts = [torch.randint(3, 50, (1, 5)), torch.randint(3, 50, (1, 9))]
    alone = [model.generate(p, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, p.shape[1] :] for p in prompts]
    padded = torch.zeros(2, 9, dtype=torch.long)
    mask = torch.zeros(2, 9, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        padded[row, 9 - prompt.shape[1] :] = prompt[0]
        mask[row, 9 - prompt.shape[1] :] = 1
    together = model.generate(padded, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)[:, 9:]
    assert together.tolist() == [tokens.tolist() for tokens in alone]


def test_a_kernel_that_is_not_there_is_refused_with_its_remedy() -> None:
    with pytest.raises(UserError, match="pip install flash-attn"):
        choose_attention("flash_attention_2", CPU, torch.bfloat16)
    with pytest.raises(UserError, match="choose one of"):
        choose_attention("flash", CPU, torch.bfloat16)
    assert choose_attention("auto", CPU, torch.float32).reason == "no CUDA device"
