"""One MLP of a decoder under each adapter, forward and backward, interleaved in one run: time, kept bytes, FLOPs.

    python -m tests.peers.ffn_ladder                                      # d=1024, r=16, K=4, bf16, this machine's CPU
    python -m tests.peers.ffn_ladder --hidden 4096 --tokens 8192 --r 32 --experts 1 2 4 8 --device cuda

Time is the median over rounds of the ratio to plain LoRA in the same round, with a bootstrap interval of 95 %: other
work on the machine slows neighbours alike. Kept bytes and FLOPs are exact and the same everywhere.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole, attach
from llava_moe.adapters.core.target_model import MLP_LINEARS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    tokens: int
    r: int
    dtype: torch.dtype
    device: str


@dataclass
class Entry:
    """One way to run the MLP; ``step`` is a forward and a backward pass."""

    name: str
    model: LlamaForCausalLM

    def step(self, x_BTD: Tensor, upstream_BTD: Tensor) -> None:
        # Through the whole decoder layer's owner once, so that gates know their examples; then the MLP alone.
        self.mlp(x_BTD).backward(upstream_BTD)
        for parameter in self.mlp.parameters():
            parameter.grad = None
        x_BTD.grad = None

    @property
    def mlp(self) -> nn.Module:
        decoder: Any = self.model.get_decoder()
        return decoder.layers[0].mlp


def bare(shape: Shape) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=1,
        num_attention_heads=8,
    )
    model: Any = LlamaForCausalLM(config)
    return model.to(shape.device, shape.dtype).requires_grad_(False)


def dressed(shape: Shape, config: Any) -> LlamaForCausalLM:
    model = bare(shape)
    attached = attach(model, config)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.normal_(std=0.02)
        # What chooses by example must have seen a call of the model: one example of all tokens, its first half prompt.
        x = torch.zeros(1, shape.tokens, shape.hidden, dtype=shape.dtype, device=shape.device)
        labels = torch.full((1, shape.tokens), -100, device=shape.device)
        labels[:, shape.tokens // 2 :] = 1
        attached.mark_prompts(labels)
        model.get_decoder()(inputs_embeds=x, use_cache=False)
    return model


def entries(shape: Shape, experts: Sequence[int]) -> list[Entry]:
    common: dict[str, Any] = {"r": shape.r, "lora_alpha": 2 * shape.r, "target_modules": MLP_LINEARS}
    peft_config = LoraConfig(r=shape.r, lora_alpha=2 * shape.r, target_modules=list(MLP_LINEARS))
    with_peft: Any = get_peft_model(bare(shape), peft_config, autocast_adapter_dtype=False)
    rows = [
        Entry("frozen", bare(shape)),
        Entry("PEFT LoRA", with_peft.base_model.model),
        Entry("LoRA", dressed(shape, Lora(**common))),
    ]
    for count in experts:
        for dispatch in ("masked", "sorted") if count > 1 else ("masked",):
            config = LlavaMole(num_experts=count, dispatch=dispatch, **common)
            rows.append(Entry(f"LLaVA-MoLE K={count} {dispatch}", dressed(shape, config)))
    most = max(experts)
    rows.append(Entry(f"MixLoRA E={most * shape.r}", dressed(shape, MixLora(num_factors=most * shape.r, **common))))
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(most):
            paths.append(str(Path(folder) / str(number)))
            attach(bare(shape), Lora(**common)).save(paths[-1])
        rows.append(Entry(f"MoLE N={most}", dressed(shape, Mole(experts=paths, granularity="matrix"))))
    return rows


def kept_per_token(entry: Entry, shape: Shape) -> float:
    """Bytes per token that autograd keeps for the backward pass, parameters apart."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = tokens(shape)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = entry.mlp(x)
    weights = {tensor.untyped_storage().data_ptr() for tensor in entry.mlp.parameters()}
    size = sum(size for pointer, size in kept.items() if pointer not in weights) / shape.tokens
    del output
    return size


def flops(entry: Entry, shape: Shape) -> int:
    # The counter knows addmm but not its in-place form.
    in_place = {torch.ops.aten.addmm_: lambda y, left, right, **_: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        entry.step(tokens(shape), torch.ones_like(tokens(shape)))
    return counter.get_total_flops()


def tokens(shape: Shape) -> Tensor:
    torch.manual_seed(1)
    x = torch.randn(1, shape.tokens, shape.hidden, dtype=shape.dtype, device=shape.device)
    return x.requires_grad_()


def race(rows: Sequence[Entry], shape: Shape, rounds: int) -> dict[str, list[float]]:
    """Seconds of each entry in each round; entries take turns."""
    clock = _cuda_clock if shape.device == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {entry.name: [] for entry in rows}
    x, upstream = tokens(shape), torch.randn(1, shape.tokens, shape.hidden).to(shape.device, shape.dtype)
    for entry in rows:
        entry.step(x, upstream)
    for _ in range(rounds):
        for entry in rows:
            started = clock()
            entry.step(x, upstream)
            seconds[entry.name].append(clock() - started)
    return seconds


def _cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Median of the paired ratios and its bootstrap interval of 95 %."""
    ratios = np.array(seconds) / np.array(reference)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    return statistics.median(ratios), float(low), float(high)


def print_table(rows: Sequence[Entry], shape: Shape, seconds: dict[str, list[float]]) -> None:
    title = f"MLP d={shape.hidden} f={shape.intermediate}, {shape.tokens} tokens, r={shape.r}, {shape.dtype}"
    table = Table(title=f"{title}, {shape.device}, torch {torch.__version__}")
    for column in ("", "median ms", "time / LoRA [95 %]", "kept d/token", "kept / LoRA", "GFLOP", "FLOP / LoRA"):
        table.add_column(column, justify="left" if not column else "right")
    meters: dict[str, tuple[float, int]] = {row.name: (kept_per_token(row, shape), flops(row, shape)) for row in rows}
    lora = meters["LoRA"]
    unit = shape.hidden * shape.dtype.itemsize
    for row in rows:
        middle, low, high = ratio(seconds[row.name], seconds["LoRA"])
        kept, count = meters[row.name]
        table.add_row(
            row.name,
            f"{statistics.median(seconds[row.name]) * 1e3:.2f}",
            f"{middle:.3f} [{low:.3f}, {high:.3f}]",
            f"{kept / unit:.3f}",
            f"{kept / lora[0]:.3f}",
            f"{count / 1e9:.2f}",
            f"{count / lora[1]:.3f}",
        )
    Console(width=140).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--intermediate", type=int, default=None, help="default: 2.6875 times hidden, as in Llama-7B")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--experts", type=int, nargs="+", default=[4])
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    shape = Shape(
        hidden=chosen.hidden,
        intermediate=chosen.intermediate or chosen.hidden * 43 // 16,
        tokens=chosen.tokens,
        r=chosen.r,
        dtype=DTYPES[chosen.dtype],
        device=chosen.device,
    )
    rows = entries(shape, chosen.experts)
    print_table(rows, shape, race(rows, shape, chosen.rounds))


if __name__ == "__main__":
    main()
