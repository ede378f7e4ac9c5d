"""Where a process is in its training, told from inside: its engine and its stream say what they begin."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_moe.train.engine import Engine
from llava_moe.train.loop import Stream
from llava_moe.train.optimizer_step import Step

LONG_WORK = 10.0
"""How many times as long as a step a checkpoint may take, or a pass of a measurement."""
UNLIMITED = 1e9
"""Of a benchmark that is asked: how long its answers take is not known, and they pass no engine."""


@dataclass(frozen=True)
class Place:
    """What a process does.

    Attributes:
        phase: in words.
        step: optimizer steps taken.
        waits: whether it waits for the others there.
        patience: how many times as long as elsewhere it may take.
        epoch, index: of the step whose samples it has at hand or waits for; no index where there are none.
    """

    phase: str = "starting"
    step: int = 0
    waits: bool = False
    patience: float = 1.0
    epoch: int = 0
    index: int | None = None


class Pulse:
    """The place of this process, written by what trains and read by what watches, on a thread of its own."""

    def __init__(self, step: int = 0) -> None:
        self.place, self.since = Place(step=step), time.monotonic()
        self._step, self._patience, self._hurry = step, 1.0, 1.0
        self._samples: tuple[int, int | None] = (0, None)

    def at(self, phase: str, waits: bool = False, patience: float = 1.0, is_quick: bool = False) -> None:
        """Begin a phase, which lasts until the next one: a device is waited for behind the call that asks it.

        Args:
            is_quick: it may take as long as :meth:`hurried` says.
        """
        patience = max(patience, self._patience) * (self._hurry if is_quick else 1.0)
        self.place = Place(phase, self._step, waits, patience, *self._samples)
        self.since = time.monotonic()

    def read(self, epoch: int, index: int) -> None:
        """Begin to wait for the samples of a step, numbered in its epoch."""
        self._samples = (epoch, index)
        self.at("reading samples")

    def stepped(self) -> None:
        """An optimizer step was taken."""
        self._step += 1

    @contextmanager
    def long_work(self) -> Iterator[None]:
        """Within, what an engine does may take :data:`LONG_WORK` times as long, and all else any time."""
        self._patience, self._samples = LONG_WORK, (0, None)
        self.at("a measurement", patience=UNLIMITED)
        try:
            yield
        finally:
            self._patience = 1.0
            self.at("going on")

    @contextmanager
    def hurried(self, factor: float) -> Iterator[None]:
        """Within, what is quick may take ``factor`` times as long as elsewhere."""
        self._hurry = factor
        try:
            yield
        finally:
            self._hurry = 1.0
            self.at("going on")


class PulsedStream:
    """A stream that says when it is waited for."""

    def __init__(self, stream: Stream, pulse: Pulse) -> None:
        self._stream, self._pulse = stream, pulse

    def steps_in_epoch(self, epoch: int) -> int:
        """See :class:`~llava_moe.train.loop.Stream`."""
        return self._stream.steps_in_epoch(epoch)

    def iterate(self, epoch: int, first_step: int) -> Generator[Step, None, None]:
        """See :class:`~llava_moe.train.loop.Stream`."""
        with closing(self._stream.iterate(epoch, first_step)) as steps:
            self._pulse.read(epoch, first_step)
            for step in steps:
                self._pulse.at("preparing a step")
                yield step
                self._pulse.read(epoch, step.index + 1)


class PulsedEngine:
    """An engine that says what it begins; all it does, the other does."""

    def __init__(self, engine: Engine, pulse: Pulse) -> None:
        self._engine, self._pulse = engine, pulse
        self.rank, self.world, self.device = engine.rank, engine.world, engine.device
        self.module: nn.Module = engine.module
        self.can_skip = engine.can_skip

    def forward(self, **inputs: Any) -> Any:
        """See :class:`~llava_moe.train.engine.Engine`; under ZeRO-3 it waits for others unseen."""
        self._pulse.at("the forward pass")
        return self._engine.forward(**inputs)

    def backward(self, loss: torch.Tensor, is_last: bool) -> None:
        """See :class:`~llava_moe.train.engine.Engine`; DeepSpeed sums gradients in it."""
        self._pulse.at("the backward pass")
        self._engine.backward(loss, is_last)

    def step(self, learning_rates: Sequence[float]) -> float:
        """See :class:`~llava_moe.train.engine.Engine`."""
        self._pulse.at("the update", waits=True)
        norm = self._engine.step(learning_rates)
        self._pulse.stepped()
        return norm

    def skip(self) -> None:
        """See :class:`~llava_moe.train.engine.Engine`."""
        self._engine.skip()
        self._pulse.stepped()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """See :class:`~llava_moe.train.engine.Engine`."""
        self._pulse.at("a sum over processes", waits=True)
        return self._engine.sum(values)

    def gather(self, value: object) -> list[Any]:
        """See :class:`~llava_moe.train.engine.Engine`."""
        self._pulse.at("an exchange between processes", waits=True)
        return self._engine.gather(value)

    def states(self) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        """See :class:`~llava_moe.train.engine.Engine`."""
        self._pulse.at("collecting a checkpoint", waits=True, patience=LONG_WORK)
        return self._engine.states()

    def load(self, folder: Path) -> None:
        """See :class:`~llava_moe.train.engine.Engine`."""
        self._pulse.at("reading a checkpoint", patience=LONG_WORK)
        self._engine.load(folder)

    def barrier(self) -> None:
        """See :class:`~llava_moe.train.engine.Engine`; a checkpoint is written before one."""
        self._pulse.at("a meeting of all processes", waits=True, patience=LONG_WORK)
        self._engine.barrier()
