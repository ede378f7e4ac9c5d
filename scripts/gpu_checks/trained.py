"""A stage of training with random weights: the project's own model, adapter, engine and step, on made-up examples.

Shape suffixes: t tokens of an example, N supervised tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llava_moe.assemble import Assembled, ModelSpec, new_model_without_weights
from llava_moe.data.batch import Batch, collate_row
from llava_moe.data.encode import IGNORED, Encoder, Example
from llava_moe.data.template import Template
from llava_moe.model import FromShape, TrainableParts, prepare_stage
from llava_moe.plan.dummy_rows import Row
from llava_moe.runs.objective import objective_of
from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer import OptimizerSettings
from llava_moe.train.optimizer_step import take_step

PARTS = TrainableParts({"adapter": 2e-4, "projector": 2e-5})
NUM_DOMAINS = 3
STD = 0.02


def spec_of(shape: FromShape, adapter: Any, dtype: str, attention: str = "auto") -> ModelSpec:
    """Stage 2 of a model of this shape."""
    return ModelSpec(shape, adapter, dtype, Template("v1", ""), "pad", 4096, "cut", attn_implementation=attention)


@dataclass(frozen=True)
class Step:
    """Rows of one optimizer step."""

    batches: tuple[Batch, ...]
    epoch: int = 0
    index: int = 0
    keys: tuple[str, ...] = ()
    bad: tuple[Any, ...] = ()
    padding_share: float = 0.0


@dataclass(frozen=True)
class Passed:
    """What a step came to: its objective, and the gradient of each trained tensor in fp32 before clipping."""

    objective: float
    gradients: dict[str, Tensor]


class TrainedStage:
    """A model of random weights, made on its device, and what trains it.

    Args:
        like: a stage of the same shape, whose weights this one takes, in its own precision.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, like: TrainedStage | None = None) -> None:
        # Tensors that hold nothing, where they will stand: filled there, a 7B takes no minutes of the CPU's.
        self.assembled: Assembled = new_model_without_weights(spec, device, place=device)
        model, attached = self.assembled.model, self.assembled.attached
        with torch.no_grad():
            if like is None:
                _fill(model)
            else:
                _take(model, like.assembled.model)
        groups = prepare_stage(model, PARTS, attached.trainable_parameters(), self.assembled.base.family)
        model.train()
        self.engine = LocalEngine(model, groups, OptimizerSettings(), device)
        self.objective = objective_of(self.assembled)
        self.rates = [group.learning_rate for group in groups]

    def packed(self, row: Row) -> Batch:
        """The examples of a row in one."""
        return collate_row(self.assembled.encoder, examples_of(row, self.assembled.encoder), range(len(row.lengths)))

    def apart(self, row: Row) -> list[Batch]:
        """The same examples, a row each."""
        encoder = self.assembled.encoder
        return [collate_row(encoder, [example], [number]) for number, example in enumerate(examples_of(row, encoder))]

    def step(self, batches: Sequence[Batch]) -> None:
        """Train on these rows once."""
        take_step(self.engine, self.objective, Step(tuple(batches)), self.rates, NUM_DOMAINS)

    def gradients(self, batches: Sequence[Batch]) -> Passed:
        """What training would do with these rows; no weight changes."""
        kept: dict[str, Tensor] = {}

        def keep() -> None:
            masters = self.engine.masters.items()
            kept.update({name: one.grad.detach().clone() for name, one in masters if one.grad is not None})

        still = [0.0] * len(self.rates)
        outcome = take_step(self.engine, self.objective, Step(tuple(batches)), still, NUM_DOMAINS, before_update=keep)
        return Passed(outcome.objective, kept)

    @torch.no_grad()
    def token_losses_N(self, batch: Batch) -> Tensor:
        """The cross-entropy of each supervised token of a row."""
        losses_N, _ = self.objective.token_losses_N(self.engine, batch.to(self.engine.device))
        return losses_N


def examples_of(row: Row, encoder: Encoder, seed: int = 0) -> list[Example]:
    """Examples of a row's lengths with random words, pictures and domains."""
    generator = np.random.default_rng(seed)
    examples: list[Example] = []
    for length, num_images, num_supervised in zip(row.lengths, row.num_images, row.supervised, strict=True):
        ids_t = generator.integers(3, encoder.image_token_id, length)
        num_places = int(encoder.tokens_of_images(num_images).sum())
        ids_t[1 : 1 + num_places] = encoder.image_token_id
        labels_t = np.full(length, IGNORED)
        labels_t[length - num_supervised :] = ids_t[length - num_supervised :]
        pixels = generator.integers(256, size=(num_images, *encoder.null_image.shape), dtype=np.uint8)
        examples.append(Example(ids_t, labels_t, pixels, int(generator.integers(NUM_DOMAINS)), str(len(examples))))
    return examples


def _fill(model: nn.Module) -> None:
    """Weights of a model in training, the adapter's B among them: nothing that is checked may be zero."""
    generators: dict[torch.device, torch.Generator] = {}
    for name, parameter in model.named_parameters():
        if parameter.device not in generators:
            generators[parameter.device] = torch.Generator(parameter.device).manual_seed(0)
        if parameter.ndim > 1:
            parameter.normal_(0.0, STD, generator=generators[parameter.device])
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def _take(model: nn.Module, other: nn.Module) -> None:
    """The weights of another model of the same tensors; what this one rounds, that one rounds with it."""
    given = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.copy_(given[name])
        given[name].copy_(parameter)
