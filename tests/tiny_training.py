"""A training small enough to be computed by hand: a bigram model, packed rows of it, a stream and a run that remember.

Shape suffixes: T tokens of a row, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llava_moe.data.batch import Batch, collate
from llava_moe.data.encode import Example
from llava_moe.train.engine import LocalEngine
from llava_moe.train.log import StepRecord
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer import OptimizerSettings, ParameterGroup
from llava_moe.train.state import RunState

CPU = torch.device("cpu")
VOCABULARY, WIDTH = 23, 6
DOMAINS = ("general", "documents", "medical")
# (domain, supervised?) of each token behind <s>: 1 is supervised. Samples differ much in how much they teach.
SAMPLES = [(0, "0011"), (2, "01110111111"), (1, "0000001"), (0, "1"), (2, "00100"), (0, "01010101")]
SETTINGS = OptimizerSettings(epsilon=1e-3, gradient_clipping=0.0)


def example(domain: int, supervised: str, is_hole: bool = False) -> Example:
    draw = np.random.default_rng(len(supervised) * 7 + domain)
    ids = np.append(1, draw.integers(3, VOCABULARY, len(supervised)))
    labels = np.where(np.array([False, *(mark == "1" for mark in supervised)]), ids, -100)
    if is_hole:
        labels[:] = -100
    return Example(ids, labels, np.empty((0, 3, 2, 2), dtype=np.uint8), domain, "key", is_hole)


def rows_of(seats: Sequence[Sequence[int]]) -> list[Batch]:
    """Rows of the samples with these numbers."""
    return [collate([example(*SAMPLES[at]) for at in row], list(row), None, 0) for row in seats]


class Bigram(nn.Module):
    """Logits of the next token from the token alone: packing cannot matter, so a plain loop is the reference."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH, dtype=dtype)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype)

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor | int) -> SimpleNamespace:
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return SimpleNamespace(logits=self.head(self.embed(input_ids)[:, kept]))


def token_losses(model: Bigram, at: int) -> torch.Tensor:
    """Cross-entropy of each supervised token of a sample by itself, one token after another."""
    one = example(*SAMPLES[at])
    losses = []
    for place in range(1, len(one.input_ids)):
        if one.labels[place] != -100:
            logits_V = model.head(model.embed(torch.tensor(one.input_ids[place - 1])))
            losses.append(F.cross_entropy(logits_V.float(), torch.tensor(one.labels[place])))
    return torch.stack(losses)


def inputs_of(batch: Batch) -> Mapping[str, Any]:
    return {"input_ids": batch.input_ids}


OBJECTIVE = Objective(inputs_of)


def group_of(model: nn.Module) -> ParameterGroup:
    """All of a model's parameters, at one rate."""
    return SimpleNamespace(part="all", learning_rate=0.0, parameters=dict(model.named_parameters()))


def engine_of(model: nn.Module, settings: OptimizerSettings = SETTINGS) -> LocalEngine:
    """One process that trains all of a model."""
    return LocalEngine(model, [group_of(model)], settings, CPU)


@dataclass(frozen=True)
class ListedStep:
    """A step of given rows."""

    batches: Sequence[Batch]
    epoch: int = 0
    index: int = 0
    keys: Sequence[str] = ()
    bad: Sequence[Any] = ()
    padding_share: float = 0.0


@dataclass
class ListedStream:
    """Epochs of the same steps; notes from where it was read, and whether each reading was closed.

    Attributes:
        seats: of each step, the samples of each row.
        bad: of each step's number in its epoch, the records that could not be used.
        before: called with (epoch, step) before a step is given; what it raises is raised by the stream.
    """

    seats: Sequence[Sequence[Sequence[int]]]
    bad: Mapping[int, Sequence[str]] = field(default_factory=dict)
    before: Callable[[int, int], None] = lambda epoch, index: None
    asked: list[tuple[int, int]] = field(default_factory=list)
    num_closed: int = 0

    def steps_in_epoch(self, epoch: int) -> int:
        return len(self.seats)

    def iterate(self, epoch: int, first_step: int) -> Generator[ListedStep, None, None]:
        self.asked.append((epoch, first_step))
        try:
            for index in range(first_step, len(self.seats)):
                self.before(epoch, index)
                keys = [f"{epoch}.{index}.{at}" for row in self.seats[index] for at in row]
                yield ListedStep(rows_of(self.seats[index]), epoch, index, keys, self.bad.get(index, ()))
        finally:
            self.num_closed += 1


@dataclass
class KeptRun:
    """A run's folder in memory: its log, its bad records, and the weights of each state that was saved.

    Attributes:
        asks: step -> the exit status that a signal asks for once its line is logged.
    """

    engine: LocalEngine | None = None
    asks: Mapping[int, int] = field(default_factory=dict)
    stop_status: int = 0
    records: list[Mapping[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    saved: list[RunState] = field(default_factory=list)
    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @property
    def logged(self) -> list[int]:
        """The steps with a line."""
        return [record["step"] for record in self.records]

    @property
    def saved_steps(self) -> list[int]:
        """The steps with a checkpoint, in the order of writing."""
        return [state.step for state in self.saved]

    def log(self, record: StepRecord) -> None:
        self.records.append(record.fields)
        self.stop_status = self.asks.get(record.fields["step"], self.stop_status)

    def quarantine(self, bad: Sequence[Any]) -> None:
        self.bad += bad

    def save(self, state: RunState) -> None:
        self.saved.append(state)
        if self.engine is not None:
            self.weights.append(self.engine.trained_tensors())

    def settle(self) -> None:
        """What was saved stands."""

    def check_saving(self) -> None:
        """Nothing fails."""

    def name_samples(self, keys: Sequence[str], epoch: int, index: int) -> list[str]:
        return [f"sample/{key}" for key in keys]
