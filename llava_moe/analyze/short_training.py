"""Short trainings of one model, each from the same start, by the training loop itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from llava_moe.train.engine import LocalEngine
from llava_moe.train.log import StepRecord
from llava_moe.train.loop import LoopSettings, Stream, train
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer import OptimizerSettings, ParameterGroup
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState


@dataclass(frozen=True)
class ShortTraining:
    """What a short training is.

    Attributes:
        groups: what trains, at the run's learning rates.
        num_steps: optimizer steps.
        rate: times those learning rates; from there half a cosine leads to 0, without warm-up.
    """

    module: nn.Module
    groups: Sequence[ParameterGroup]
    optimizer: OptimizerSettings
    objective: Objective
    num_steps: int
    rate: float
    device: torch.device

    @contextmanager
    def trained_on(self, stream: Stream, domain: str, seed: int) -> Iterator[float]:
        """The model trained on a stream of one domain while this lasts, in eval mode; then bit for bit as it was.

        The optimizer starts without memory: what it knows of earlier steps is the mixture's.

        Args:
            seed: of dropout.

        Yields:
            The loss of the last step, in nats per supervised token.

        Raises:
            UserError: the loss is not finite at too many steps, or out of memory.
        """
        tensors = [tensor for group in self.groups for tensor in group.parameters.values()]
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(seed)
                last_loss = self._train(stream, domain)
            self.module.eval()
            yield last_loss
        finally:
            self.module.eval()
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
                    tensor.grad = None

    def _train(self, stream: Stream, domain: str) -> float:
        engine = LocalEngine(self.module, self.groups, self.optimizer, self.device)
        unrecorded = _Unrecorded()
        rates = [group.learning_rate * self.rate for group in self.groups]
        schedule = Schedule(self.num_steps, warmup_ratio=0.0)
        settings = LoopSettings((domain,), log_every=1, save_every=0)
        train(engine, stream, self.objective, schedule, rates, unrecorded, settings, RunState())
        return unrecorded.last_loss


class _Unrecorded:
    """A training that leaves nothing on the disk: the loop's run without a folder."""

    stop_status = 0

    def __init__(self) -> None:
        self.last_loss = float("nan")

    def log(self, record: StepRecord) -> None:
        """Keep the loss alone."""
        self.last_loss = float(record.fields["loss"])

    def quarantine(self, bad: Sequence[object]) -> None:
        """A record whose image cannot be read left a hole, as in the run, which has told of it."""

    def save(self, state: RunState) -> None:
        """The end of the training is measured and thrown away."""

    def settle(self) -> None:
        """Nothing is written."""

    def check_saving(self) -> None:
        """Nothing is written."""

    def name_samples(self, keys: Sequence[str], epoch: int, index: int) -> list[str]:
        """Records go by their keys."""
        return list(keys)
