"""``log.jsonl``: one object per logged optimizer step, and where else such a record goes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.our_files import read_objects, read_text
from llava_moe.train.loss import StepSums
from llava_moe.train.state import RunState


@dataclass(frozen=True)
class StepRecord:
    """One line of ``log.jsonl``; the fields are those of the interface."""

    fields: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def build(
        state: RunState,
        keys: Sequence[str],
        sums: StepSums,
        objective: float,
        grad_norm: float,
        learning_rate: float,
        seconds: float,
        padding_share: float,
        domains: Sequence[str],
        expert_tokens: torch.Tensor | None,
        expert_entropy: torch.Tensor | None,
        layer_names: Sequence[str],
        num_experts: Sequence[int],
    ) -> StepRecord:
        """Assemble a record.

        ``loss`` is the mean cross-entropy over supervised tokens in nats, without the balance loss;
        ``load_balance_loss`` the mean over examples, not weighted; ``sample_hash`` SHA-256 over the ordered keys.

        Args:
            keys: record keys of all samples of the step, in plan order.
            objective: what was minimized, in nats.
            grad_norm: L2 norm of the global gradient before clipping.
            learning_rate: the largest over parameter groups.
            seconds: wall time of the step, the wait for its data among it.
            padding_share: share of the first rank's tokens that belong to no real sample.
            domains: names of the D domains.
            expert_tokens, expert_entropy: ``[L, D, K]`` and ``[L, D]``; without either there is no ``experts``.
            layer_names, num_experts: of the L layers; columns beyond a layer's own number are left out.
        """
        tokens, supervised = int(sums.scalar("tokens")), int(sums.supervised_D.sum())
        record = {
            "step": state.step,
            "epoch": state.epoch,
            "loss": sums.loss,
            "load_balance_loss": sums.scalar("balance") / max(1.0, sums.scalar("examples")),
            "objective": objective,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "seconds": seconds,
            "samples": int(sums.samples_D.sum()),
            "tokens": tokens,
            "supervised_tokens": supervised,
            "padding_share": padding_share,
            "tokens_per_second": tokens / seconds,
            "supervised_tokens_per_second": supervised / seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "sample_hash": sample_hash(keys),
            "rows": int(sums.scalar("rows")),
            "domains": loss_by_domain(sums, domains),
        }
        if expert_tokens is not None and expert_entropy is not None:
            record["experts"] = _by_layer(expert_tokens, expert_entropy, layer_names, num_experts, domains)
        return StepRecord(record)


def sample_hash(keys: Sequence[str]) -> str:
    """SHA-256 over a step's record keys in plan order."""
    return hashlib.sha256("".join(keys).encode()).hexdigest()


def peak_memory_bytes() -> int:
    """Largest device memory held by tensors, or the process's largest resident set on CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def loss_by_domain(sums: StepSums, domains: Sequence[str]) -> dict[str, Any]:
    """The ledger of each domain with samples: mean loss in nats, supervised tokens, samples."""
    ledger = {}
    for number, name in enumerate(domains):
        supervised = int(sums.supervised_D[number])
        samples = int(sums.samples_D[number])
        if samples:
            mean = float(sums.loss_D[number]) / supervised if supervised else 0.0
            ledger[name] = {"loss": mean, "supervised_tokens": supervised, "samples": samples}
    return ledger


def _by_layer(
    tokens_LDK: torch.Tensor,
    entropy_LD: torch.Tensor,
    layer_names: Sequence[str],
    num_experts: Sequence[int],
    domains: Sequence[str],
) -> dict[str, Any]:
    counts_LD = tokens_LDK.sum(-1)
    return {
        layer: {
            name: {
                "share": [round(float(x), 6) for x in tokens_LDK[row, column, :width] / counts_LD[row, column]],
                "entropy": round(float(entropy_LD[row, column] / counts_LD[row, column]), 6),
            }
            for column, name in enumerate(domains)
            if counts_LD[row, column] > 0
        }
        for row, (layer, width) in enumerate(zip(layer_names, num_experts, strict=True))
    }


class LogSink(Protocol):
    """Somewhere a record goes."""

    def write(self, record: StepRecord) -> None:
        """Take the record of a step."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


class JsonLines:
    """Appends to ``log.jsonl``; lines of steps after ``last_step`` (a killed run's) are dropped first.

    Raises:
        UserError: a line that is there is damaged; the message names it.
    """

    def __init__(self, path: Path, stage: str, last_step: int) -> None:
        self.stage, self.path = stage, path
        self._owed = b""
        if path.exists():
            _truncate(path, last_step)
        # Without a buffer of Python's, which forgets how much of a line a full disk has taken.
        self.file = path.open("ab", buffering=0)

    def write(self, record: StepRecord) -> None:
        """Append a record, with the stage's name first and null for each number that is not finite.

        Raises:
            UserError: the disk takes nothing; the line is owed, and :meth:`catch_up` tries again.
        """
        # NaN is not JSON: a number that is not finite is written as null.
        line = json.dumps({"stage": self.stage, **_finite(record.fields)}, allow_nan=False)
        self._owed += (line + "\n").encode()
        self.catch_up()

    def catch_up(self) -> None:
        """Write what could not be written before.

        Raises:
            UserError: the disk still takes nothing.
        """
        try:
            while self._owed:
                self._owed = self._owed[self.file.write(self._owed) :]
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror}): see to the disk") from error

    def flush(self) -> None:
        """:meth:`catch_up`, and bring all lines to the disk: a checkpoint that is there has its lines.

        Raises:
            UserError: as :meth:`catch_up`.
        """
        self.catch_up()
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror}): see to the disk") from error

    def close(self) -> None:
        """Close the file; raises nothing, whatever the disk says."""
        # A line that is owed was told as an error before, and is tried once more.
        with suppress(UserError, OSError):
            self.catch_up()
        with suppress(OSError):
            self.file.close()


def _finite(value: Any) -> Any:
    """A value with null in the place of each number that is not finite."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _truncate(path: Path, last_step: int) -> None:
    remedy = "put it back, or move it away to begin a new one"
    steps = [one["step"] for one in read_objects(path, remedy, {"step": int})]
    lines = [line for line in read_text(path, remedy, whole_lines=True).split("\n") if line]
    kept = [line for line, step in zip(lines, steps, strict=True) if step <= last_step]
    replace_file(path, "".join(line + "\n" for line in kept))


def scalars_of(record: StepRecord) -> dict[str, float]:
    """Flatten a record into named numbers for curve viewers: ``loss``, ..., ``domains/<domain>/loss``, ..."""
    flat = {key: float(value) for key, value in record.fields.items() if isinstance(value, int | float)}
    for domain, values in record.fields["domains"].items():
        flat |= {f"domains/{domain}/{key}": float(value) for key, value in values.items()}
    return flat


class ScoreSink(LogSink, Protocol):
    """Somewhere records and the scores of a validation go."""

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Take the scores of a validation after ``step`` by name, see ``Validation.scores``."""
        ...
