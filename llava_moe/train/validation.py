"""What is measured while training: held-out loss by domain, benchmark scores, and which step's score is best.

Nothing of it reaches the training: weights are only read, and modes and random numbers are put back.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from llava_moe.train.engine import Engine
from llava_moe.train.log import loss_by_domain
from llava_moe.train.loss import RunningSums, StepSums
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer_step import Step

HELD_OUT_LOSS = "held_out_loss"


@dataclass(frozen=True)
class Validation:
    """One line of ``validation.jsonl``.

    Attributes:
        fields: ``step``; ``held_out_loss`` with its ``supervised_tokens``, ``samples`` and ``domains`` (as in
            ``log.jsonl``) where there are held-out records; ``benchmarks``: benchmark to measure to value.
    """

    fields: Mapping[str, Any]

    @staticmethod
    def of(
        step: int, sums: StepSums | None, domains: Sequence[str], benchmarks: Mapping[str, Mapping[str, float]]
    ) -> Validation:
        """Of the sums over the held-out records (None: there are none) and of the benchmarks' measures."""
        fields: dict[str, Any] = {"step": step}
        if sums is not None:
            fields |= {
                HELD_OUT_LOSS: sums.loss,
                "supervised_tokens": int(sums.supervised_D.sum()),
                "samples": int(sums.samples_D.sum()),
                "domains": {name: _finite(ledger) for name, ledger in loss_by_domain(sums, domains).items()},
            }
        return Validation(fields | {"benchmarks": {name: _finite(scores) for name, scores in benchmarks.items()}})

    @property
    def step(self) -> int:
        """The optimizer steps taken before."""
        return int(self.fields["step"])

    @property
    def scores(self) -> dict[str, float]:
        """``held_out_loss``, ``held_out_loss.<domain>`` and ``<benchmark>.<measure>`` by name."""
        scores = {HELD_OUT_LOSS: self.fields.get(HELD_OUT_LOSS)}
        for domain, ledger in self.fields.get("domains", {}).items():
            scores[f"{HELD_OUT_LOSS}.{domain}"] = ledger["loss"]
        for benchmark, measures in self.fields["benchmarks"].items():
            scores |= {f"{benchmark}.{name}": value for name, value in measures.items()}
        # What is not finite is null in the file.
        return {name: float(value) for name, value in scores.items() if value is not None}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class BestBy:
    """By which score a checkpoint is the best: the lowest of a held-out loss, the highest of a benchmark's measure."""

    score: str

    @property
    def takes_lowest(self) -> bool:
        """Whether less is better."""
        return self.score.partition(".")[0] == HELD_OUT_LOSS

    def is_better(self, new: Validation, old: Validation | None) -> bool:
        """Whether ``new`` beats ``old``; the first of equals stays, and what is not finite is never best."""
        value = new.scores.get(self.score, math.nan)
        if not math.isfinite(value) or old is None:
            return math.isfinite(value)
        before = old.scores[self.score]
        return value < before if self.takes_lowest else value > before

    def best_of(self, validations: Iterable[Validation]) -> Validation | None:
        """The best of several in the order of their steps; None where none has a finite score."""
        best: Validation | None = None
        for one in validations:
            if self.is_better(one, best):
                best = one
        return best


def in_words(scores: Mapping[str, float]) -> str:
    """Scores in a line: ``held-out loss 1.2345 (general 1.1 documents 1.3), demo.exact_match 0.4``.

    Of a benchmark's measures only those over all its questions.
    """
    by_domain, parts = [], []
    for name, value in scores.items():
        benchmark, _, rest = name.partition(".")
        if benchmark == HELD_OUT_LOSS and rest:
            by_domain.append(f"{rest} {value:.4f}")
        elif rest and "." not in rest:
            parts.append(f"{name} {value:.4f}")
    if HELD_OUT_LOSS in scores:
        parts.insert(0, f"held-out loss {scores[HELD_OUT_LOSS]:.4f} ({' '.join(by_domain)})")
    return ", ".join(parts)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Eval mode while this lasts; then each part's mode and all random generators of this process are as before."""
    modes = [(part, part.training) for part in module.modules()]
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # Only this process's own device: to ask the others would make a context on each.
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    module.eval()
    try:
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)


@torch.no_grad()
def held_out_sums(engine: Engine, objective: Objective, steps: Iterable[Step], num_domains: int) -> StepSums:
    """Cross-entropy in nats and supervised tokens by domain, summed over all rows of ``steps`` on all ranks.

    Every rank has equally many rows, so that all call the model equally often.
    """
    sums = RunningSums(num_domains, engine.device)
    for step in steps:
        for row in step.batches:
            batch = row.to(engine.device)
            losses_N, targets = objective.token_losses_N(engine, batch)
            sums.add_losses(losses_N, targets.domains_N)
            sums.add_row(batch, 0.0)
    return StepSums.from_flat(engine.sum(sums.flat()).cpu())
