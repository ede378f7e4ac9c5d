"""Losses after a step along each record's normalised gradient: interference without its first-order approximation.

Letters of shapes: N records that take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from llava_moe.analyze.gradients import RecordGradients
from llava_moe.analyze.losses import example_losses_S
from llava_moe.analyze.parts import Parameters, Scope, members
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.progress import Progress
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.assemble import Assembled
from llava_moe.eval.ranks import Ranks

SHARE_OF_LENGTH = 1e-4
"""Longer steps let curvature, which lowers every effect alike, hide the small ones; shorter ones drown in rounding."""


@dataclass(frozen=True)
class Steps:
    """Who takes a step, along what, and who is measured after it.

    Attributes:
        places: the records that take part, by their place among all.
        rows: the same, dealt to packed rows.
        parts: name -> the parameters (by number) that the step moves; the rest of the gradient counts as 0.
        size: the step's length.
    """

    places: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    parts: dict[tuple[Scope, str], tuple[int, ...]]
    size: float

    @property
    def num_forwards(self) -> int:
        """Packed rows run forward in all, those before any step included."""
        return len(self.rows) * (1 + len(self.places) * len(self.parts))


def steps_to_take(
    parameters: Parameters,
    records: HeldOutRecords,
    scopes: Sequence[Scope],
    samples: int,
    tokens_per_row: int,
    size: float | None,
) -> Steps:
    """The first ``samples`` drawn records of each group, each with a step along each part of the scopes asked for.

    Args:
        size: length of a step; None takes ``SHARE_OF_LENGTH`` of the parameters' own length.
    """
    group_N = records.group_of
    places = [place for group in range(len(records.groups)) for place in np.flatnonzero(group_N == group)[:samples]]
    chosen = tuple(int(place) for place in places)
    parts = {
        (scope, name): tuple(numbers) for scope in scopes for name, numbers in members(parameters.parts, scope).items()
    }
    if size is None:
        squares = sum(float(tensor.detach().double().square().sum()) for tensor in parameters.tensors)
        size = SHARE_OF_LENGTH * squares**0.5
    return Steps(chosen, tuple(records.rows(chosen, tokens_per_row)), parts, size)


def known_effects(steps: Steps, pieces: Pieces, columns: Iterable[int]) -> dict[int, np.ndarray]:
    """What is kept of these records' steps, float64 [parts, N] each."""
    shape = (len(steps.parts), len(steps.places))
    kept = {column: pieces.get(f"exact-{column:06d}") for column in columns}
    return {
        column: piece["falls"] for column, piece in kept.items() if piece is not None and piece["falls"].shape == shape
    }


def exact_effects(
    assembled: Assembled,
    gradients: RecordGradients,
    records: HeldOutRecords,
    steps: Steps,
    pieces: Pieces,
    ranks: Ranks,
    console: Console,
) -> dict[tuple[Scope, str], np.ndarray]:
    """D(x, y) in nats, float64 [N, N] of each part: how far a step along y's gradient lowers the loss of x.

    One record's steps are a piece; each process takes its share of the records.

    Raises:
        UserError: a gradient's file is gone, or the disk is full.
    """
    columns = ranks.share(range(len(steps.places)))
    found = known_effects(steps, pieces, columns)

    def compute() -> dict[int, np.ndarray]:
        with Progress(console, "steps", len(columns)) as progress:
            progress.skip(len(found))
            before_N = None
            for column in columns:
                if column not in found:
                    before_N = _losses(assembled, records, steps) if before_N is None else before_N
                    found[column] = _falls(assembled, gradients, records, steps, column, before_N)
                    pieces.put(f"exact-{column:06d}", falls=found[column])
                    progress.step()
        return found

    ranks.together(compute)
    everywhere = {column: falls for share in ranks.gather(found) for column, falls in share.items()}
    stacked = np.stack([everywhere[column] for column in range(len(steps.places))], -1)
    return dict(zip(steps.parts, stacked, strict=True))


def _falls(
    assembled: Assembled,
    gradients: RecordGradients,
    records: HeldOutRecords,
    steps: Steps,
    column: int,
    before_N: np.ndarray,
) -> np.ndarray:
    """float64 [parts, N]: the fall of each record's loss by a step along one record's gradient."""
    flat = torch.from_numpy(np.array(gradients.of(steps.places[column])))
    spans = gradients.spans()
    falls = []
    for numbers in steps.parts.values():
        squares = sum(float(flat[spans[number]].double().square().sum()) for number in numbers)
        if squares == 0:
            falls.append(np.zeros_like(before_N))
            continue
        with _moved(gradients, flat, numbers, -steps.size / squares**0.5):
            falls.append(before_N - _losses(assembled, records, steps))
    return np.stack(falls)


@contextmanager
def _moved(gradients: RecordGradients, flat: torch.Tensor, numbers: Sequence[int], factor: float) -> Iterator[None]:
    """Some parameters moved along a gradient while this lasts, and then bit for bit as they were."""
    tensors, spans = gradients.parameters.tensors, gradients.spans()
    before = {number: tensors[number].detach().clone() for number in numbers}
    try:
        with torch.no_grad():
            for number in numbers:
                step = flat[spans[number]].to(tensors[number].device).view_as(tensors[number])
                tensors[number].copy_(tensors[number].float() + factor * step)
        yield
    finally:
        with torch.no_grad():
            for number, tensor in before.items():
                tensors[number].copy_(tensor)


@torch.no_grad()
def _losses(assembled: Assembled, records: HeldOutRecords, steps: Steps) -> np.ndarray:
    found: dict[int, float] = {}
    for row in steps.rows:
        losses_S = example_losses_S(assembled, records.row(row))
        found |= dict(zip(row, losses_S.double().tolist(), strict=True))
    return np.array([found[place] for place in steps.places])
