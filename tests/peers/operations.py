"""What a training step of each method starts and waits for on a device, as counted on a CPU.

    python -m tests.peers.operations

A LLaVA with the tower of LLaVA-1.5's depth and the seven linears of a Llama layer, all narrow, takes real optimizer
steps at two depths, of two and of three micro-batches; what a layer and a micro-batch take follows, and so does what
LLaVA-1.5-7B with its 32 layers takes. Kernels are operations that are no views and do more than allocate; a wait is a
value that the host reads, a result whose size it must know, or a copy that blocks. Masters are counted as they are on a
GPU, where the weights are in bf16 and AdamW is one operation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole
from llava_moe.adapters.methods.mole_experts import Expert
from llava_moe.assemble import Assembled, ModelSpec, new_model
from llava_moe.data.batch import Batch, collate
from llava_moe.data.encode import IGNORED, Example
from llava_moe.data.template import Template
from llava_moe.model import FromShape, TrainableParts, prepare_stage, recompute_activations
from llava_moe.runs.objective import objective_of
from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer import OptimizerSettings
from llava_moe.train.optimizer_step import StepOutcome, take_step
from tests.counting_device import CPU, DEVICE, Counting, Counts, move
from tests.tiny_training import ListedStep

TRUE_DEPTH = 32
KINDS = ("operations", "kernels", "waits")
VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 24, "num_attention_heads": 2},
    **{"image_size": 16, "patch_size": 8, "projection_dim": 16},
}
TEXT = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4},
    **{"max_position_embeddings": 256, "tie_word_embeddings": False},
}
NUM_EXPERTS = 3
METHODS = ("lora", "llava_mole", "mixlora", "mole")


@dataclass(frozen=True)
class Cost:
    """Of a layer in a micro-batch, of the rest of a micro-batch, and of the step around them; by kind of ``KINDS``."""

    layer: Mapping[str, float]
    row: Mapping[str, float]
    step: Mapping[str, float]

    def of_row(self, kind: str, num_layers: int = TRUE_DEPTH) -> float:
        """Of a micro-batch of a model of so many layers."""
        return self.row[kind] + num_layers * self.layer[kind]


def method_of(name: str, num_layers: int) -> Any:
    """A method at the sizes of the papers, narrow."""
    if name == "lora":
        return Lora(r=4)
    if name == "llava_mole":
        return LlavaMole(r=4, num_experts=NUM_EXPERTS)
    if name == "mixlora":
        return MixLora(num_factors=8, r=2)
    parts = {"mlp": ("gate_proj", "up_proj", "down_proj"), "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj")}
    targets = [
        f"language_model.layers.{layer}.{part}.{leaf}"
        for layer in range(num_layers)
        for part, leaves in parts.items()
        for leaf in leaves
    ]
    return Mole([Expert(f"e{k}", "", 4, 8.0, 2.0, tuple(targets)) for k in range(NUM_EXPERTS)])


def assembled_of(name: str, num_layers: int, dtype: str) -> Assembled:
    """A narrow LLaVA of so many decoder layers with the method on it."""
    shape = FromShape(
        vision=VISION, text={**TEXT, "num_hidden_layers": num_layers}, tokenizer="embedded:language_model"
    )
    template = Template("v1", "")
    spec = ModelSpec(shape, method_of(name, num_layers), dtype, template, "pad", max_length=128, over_length="cut")
    return new_model(spec, torch.device("cpu"))


def row_of(assembled: Assembled) -> Batch:
    """A packed row of four examples, three of them with an image."""
    base, examples = assembled.base, []
    side, draw = base.image_size, np.random.default_rng(0)
    for number, num_text in enumerate((11, 7, 9, 5)):
        has_image = number != 2
        places = [base.image_token_id] * (int(assembled.encoder.tokens_of_images(1)[0]) * has_image)
        ids = np.array([1, *places, *draw.integers(5, 60, num_text)])
        labels = np.where(np.arange(len(ids)) >= len(ids) - 3, ids, IGNORED)
        pixels = draw.integers(0, 255, (int(has_image), 3, side, side)).astype(np.uint8)
        examples.append(Example(ids, labels, pixels, number % 2, f"record {number}"))
    return collate(examples, range(len(examples)), None, 0)


class _OneKernelAdamW:
    """AdamW as a GPU runs it: one operation for each group."""

    def __init__(self, optimizer: torch.optim.Optimizer, counting: Counting) -> None:
        self.optimizer, self.counting, self.param_groups = optimizer, counting, optimizer.param_groups

    def step(self) -> None:
        self.counting.counts.kernels += len(self.param_groups)

    def zero_grad(self, set_to_none: bool) -> None:
        self.optimizer.zero_grad(set_to_none)


def stepped(
    name: str, num_layers: int, num_rows: int, dtype: str = "bf16", is_recomputed: bool = False, counts: bool = True
) -> tuple[StepOutcome, Counts]:
    """One optimizer step of so many micro-batches, and what it takes; without ``counts`` on the CPU as it is."""
    assembled = assembled_of(name, num_layers, dtype)
    batches = [row_of(assembled) for _ in range(num_rows)]
    counting = Counting()
    with counting if counts else nullcontext():
        if counts:
            move(assembled.model)
        parts = TrainableParts({"adapter": 1e-4, "projector": 1e-4})
        trained = assembled.attached.trainable_parameters()
        groups = prepare_stage(assembled.model, parts, trained, assembled.base.family)
        if is_recomputed:
            recompute_activations(assembled.model)
        assembled.model.train()
        engine = LocalEngine(assembled.model, groups, OptimizerSettings(), DEVICE if counts else CPU)
        engine.optimizer = _OneKernelAdamW(engine.optimizer, counting)  # type: ignore[assignment]
        counting.restart()
        outcome = take_step(engine, objective_of(assembled), ListedStep(batches), [1e-4, 1e-4], 2)
    return outcome, counting.restart()


def count_step(name: str, num_layers: int, num_rows: int, dtype: str = "bf16", is_recomputed: bool = False) -> Counts:
    """What one optimizer step of so many micro-batches takes."""
    return stepped(name, num_layers, num_rows, dtype, is_recomputed)[1]


def cost_of(name: str, is_recomputed: bool = False) -> Cost:
    """The three parts of a step, from steps of two depths and two lengths.

    A balance loss over a whole step passes its rows twice where they are several: such steps are measured.
    """
    depths, lengths = (2, 3), (2, 3)
    counts = {
        (depth, rows): count_step(name, depth, rows, is_recomputed=is_recomputed)
        for depth in depths
        for rows in lengths
    }
    layer, row, step = {}, {}, {}
    for kind in KINDS:
        of = {size: getattr(one, kind) for size, one in counts.items()}
        shallow, deep = of[2, 3] - of[2, 2], of[3, 3] - of[3, 2]
        layer[kind], row[kind] = deep - shallow, shallow - 2 * (deep - shallow)
        around = of[2, 2] - 2 * shallow, of[3, 2] - 2 * deep
        step[kind] = around[0] + (TRUE_DEPTH - 2) * (around[1] - around[0])
    return Cost(layer, row, step)


def main(words: Sequence[str]) -> None:
    """Print the table, of all methods or of those that are named."""
    print("operations, kernels / waits of LLaVA-1.5-7B: a micro-batch, of it each layer, the step around micro-batches")
    for is_recomputed in (False, True):
        print("with activation_checkpointing" if is_recomputed else "without recomputation")
        for name in words or METHODS:
            cost = cost_of(name, is_recomputed)
            parts = [{kind: cost.of_row(kind) for kind in KINDS}, cost.layer, cost.step]
            told = [f"{one['operations']:,.0f}, {one['kernels']:,.0f} / {one['waits']:,.0f}" for one in parts]
            print(f"  {name:<12}" + "".join(f"{cell:>24}" for cell in told))


if __name__ == "__main__":
    main(sys.argv[1:])
