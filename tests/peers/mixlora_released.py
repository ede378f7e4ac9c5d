"""Conditional MixLoRA as released (W's update built for every row) beside ours, forward and backward, in one run.

    python -m tests.peers.mixlora_released                            # d=1024, E=16, r=4, bf16, on the CPU
    python -m tests.peers.mixlora_released --hidden 4096 --rows 16 --tokens 512 --device cuda

Both choose by the same routers, on rows of equal length: padding, which the release needs and we do not, is left out.
The rows are the 16 of the released script; 128 tokens, or 352, which are its 256 image patches and some words.

Time is the median over rounds of the ratio to ours in the same round, with its quartiles: other work on the machine
slows neighbours alike. Peak is the most that a step holds beyond what was there before it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import Lora, MixLora, attach

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS, RELEASED = "MixLoRA, ours", "MixLoRA, as released"
# The parts of a decoder layer that are timed: a linear d -> d, a linear of the MLP, and the three of it.
PARTS = {"q_proj": ("q_proj",), "up_proj": ("up_proj",), "mlp": ("gate_proj", "up_proj", "down_proj")}


@dataclass(frozen=True)
class Shape:
    """Sizes of one race; ``intermediate`` is the MLP's width."""

    hidden: int = 1024
    intermediate: int = 2752
    rows: int = 16
    tokens: int = 128
    num_factors: int = 16
    r: int = 4
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"

    def inputs(self) -> Tensor:
        """What a step reads, [rows, tokens, hidden]."""
        torch.manual_seed(1)
        x = torch.randn(self.rows, self.tokens, self.hidden, device=self.device, dtype=self.dtype)
        return x.requires_grad_()


class Entry:
    """One way to adapt a part of a decoder layer."""

    def __init__(self, shape: Shape, part: str, config: Any | None) -> None:
        torch.manual_seed(0)
        llama = LlamaConfig(
            vocab_size=8,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=1,
            num_attention_heads=8,
        )
        built: Any = LlamaForCausalLM(llama)
        model: LlamaForCausalLM = built.to(shape.device, shape.dtype).requires_grad_(False)
        if config is not None:
            attached = attach(model, config)
            with torch.no_grad():
                for parameter in attached.parameters():
                    parameter.normal_(std=0.02)
                # What chooses by example must have seen a call of the model: half of each row is its prompt.
                labels = torch.full((shape.rows, shape.tokens), -100, device=shape.device)
                labels[:, shape.tokens // 2 :] = 1
                attached.mark_prompts(labels)
                x = torch.zeros(shape.rows, shape.tokens, shape.hidden, dtype=shape.dtype, device=shape.device)
                model.get_decoder()(inputs_embeds=x, use_cache=False)
        decoder: Any = model.get_decoder()
        self.model = model
        self.part: nn.Module = decoder.layers[0].mlp if part == "mlp" else _child(decoder.layers[0], part)

    def step(self, x_BTD: Tensor) -> None:
        """A forward and a backward pass."""
        output = self.part(x_BTD)
        output.backward(torch.ones_like(output))
        for parameter in self.part.parameters():
            parameter.grad = None
        x_BTD.grad = None


def _child(layer: nn.Module, leaf: str) -> nn.Module:
    return next(module for name, module in layer.named_modules() if name.endswith(f".{leaf}"))


def entries(shape: Shape, part: str) -> dict[str, Entry]:
    """By name; only the part's linears are adapted."""
    targets = PARTS[part]
    factors: dict[str, Any] = {"num_factors": shape.num_factors, "r": shape.r, "target_modules": targets}
    most = shape.num_factors
    configs = {
        "frozen": None,
        f"LoRA of rank {shape.r}": Lora(r=shape.r, target_modules=targets),
        f"LoRA of rank {most}": Lora(r=most, target_modules=targets),
        OURS: MixLora(**factors),
        RELEASED: MixLora(as_released=True, **factors),
    }
    return {name: Entry(shape, part, config) for name, config in configs.items()}


def race(rows: dict[str, Entry], shape: Shape, rounds: int) -> dict[str, list[float]]:
    """Seconds of each entry in each round; entries take turns, after a round that only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    x = shape.inputs()
    for number in range(rounds + 1):
        for name, entry in rows.items():
            started = _clock(shape)
            entry.step(x)
            if number:
                seconds[name].append(_clock(shape) - started)
    return seconds


def _clock(shape: Shape) -> float:
    if shape.device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles of the paired ratios."""
    low, middle, high = np.quantile(np.array(seconds) / np.array(reference), [0.25, 0.5, 0.75])
    return float(middle), float(low), float(high)


def peak_bytes(entry: Entry, shape: Shape) -> int:
    """The most that a step holds at once beyond what was there before it."""
    x = shape.inputs()
    if shape.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        entry.step(x)
        return torch.cuda.max_memory_allocated() - before
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            entry.step(x)
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    steps = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    held = np.cumsum([size for _, size in sorted(steps, key=lambda step: step[0])])
    return int(held.max())


def print_table(part: str, shape: Shape, rows: dict[str, Entry], seconds: dict[str, list[float]]) -> None:
    """A line for each entry."""
    sizes = f"{shape.rows} x {shape.tokens} tokens, E={shape.num_factors}, r={shape.r}"
    where = f"{shape.dtype}, {shape.device}, torch {torch.__version__}"
    table = Table(title=f"{part}, d={shape.hidden}, f={shape.intermediate}, {sizes}\n{where}")
    for column in ("", "median ms", "time / ours [quartiles]", "time / frozen", "peak MiB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, entry in rows.items():
        middle, low, high = ratios(seconds[name], seconds[OURS])
        table.add_row(
            name,
            f"{statistics.median(seconds[name]) * 1e3:.2f}",
            f"{middle:.2f} [{low:.2f}, {high:.2f}]",
            f"{ratios(seconds[name], seconds['frozen'])[0]:.2f}",
            f"{peak_bytes(entry, shape) / 2**20:.1f}",
        )
    Console(width=140).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Race and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--intermediate", type=int, default=None, help="default: 2.6875 times hidden, as in Llama-7B")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 352])
    parser.add_argument("--factors", type=int, default=16)
    parser.add_argument("--r", type=int, default=4)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for num_tokens in chosen.tokens:
        shape = Shape(
            hidden=chosen.hidden,
            intermediate=chosen.intermediate or chosen.hidden * 43 // 16,
            rows=chosen.rows,
            tokens=num_tokens,
            num_factors=chosen.factors,
            r=chosen.r,
            dtype=DTYPES[chosen.dtype],
            device=chosen.device,
        )
        for part in chosen.parts:
            rows = entries(shape, part)
            print_table(part, shape, rows, race(rows, shape, chosen.rounds))


if __name__ == "__main__":
    main()
