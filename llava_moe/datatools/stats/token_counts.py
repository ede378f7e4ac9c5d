"""Samples and tokens of any part of an epoch's plan, counted exactly. Shape letter: n samples of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from llava_moe.data.mixture import EpochPlan
from llava_moe.data.source_index import SourceIndex


@dataclass(frozen=True)
class Tally:
    """Sums over samples. Every token is of an image, supervised, or of the prompt (all else, ``<s>`` included)."""

    samples: int = 0
    tokens: int = 0
    image_tokens: int = 0
    supervised_tokens: int = 0
    images: int = 0
    text_only: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are neither of an image nor supervised."""
        return self.tokens - self.image_tokens - self.supervised_tokens

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Taken:
    """Samples of a plan, in its order.

    Attributes:
        source: int [n], numbers in the mixture.
        entry: int64 [n], places in the sources' indexes.
        length, supervised, num_images: int [n].
        image_tokens: int [n]; None where every image takes as many.
    """

    source: np.ndarray
    entry: np.ndarray
    length: np.ndarray
    supervised: np.ndarray
    num_images: np.ndarray
    image_tokens: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.source)

    def first(self, count: int) -> Taken:
        """The first ``count`` samples."""
        return self.where(np.arange(len(self)) < count)

    def where(self, chosen: np.ndarray) -> Taken:
        """The samples that a bool [n] picks."""
        columns = [getattr(self, field.name) for field in fields(self)]
        picked: list[Any] = [None if column is None else column[chosen] for column in columns]
        return Taken(*picked)


def take(plan: EpochPlan, indexes: Sequence[SourceIndex]) -> Taken:
    """What an epoch takes, with the supervised tokens that the plan itself does not carry."""
    offsets = np.cumsum([0, *(len(index.rows) for index in indexes)])[:-1]
    supervised = np.concatenate([index.supervised for index in indexes])
    places = offsets[plan.source] + plan.entry
    image_tokens = [index.image_tokens for index in indexes if index.image_tokens is not None]
    return Taken(
        source=plan.source,
        entry=plan.entry,
        length=plan.length,
        supervised=supervised[places],
        num_images=plan.num_images,
        image_tokens=np.concatenate(image_tokens)[places] if image_tokens else None,
    )


def tally_by(group: np.ndarray, num_groups: int, taken: Taken, num_image_tokens: int | None) -> list[Tally]:
    """The sums of each group.

    Args:
        group: int [n], the number of each sample's group.
        num_image_tokens: of every image; None where the samples say how many theirs take.
    """

    def sums(values: np.ndarray) -> list[int]:
        # float64 sums of whole numbers are exact up to 2^53 tokens.
        return [round(value) for value in np.bincount(group, values, num_groups).tolist()]

    if taken.image_tokens is not None:
        image_tokens = sums(taken.image_tokens)
    else:
        image_tokens = [(num_image_tokens or 0) * images for images in sums(taken.num_images)]
    columns = (
        sums(np.ones(len(taken))),
        sums(taken.length),
        image_tokens,
        sums(taken.supervised),
        sums(taken.num_images),
        sums(taken.num_images == 0),
    )
    return [Tally(*row) for row in zip(*columns, strict=True)]


def loss_shares(group: np.ndarray, num_groups: int, taken: Taken, samples_per_step: int) -> tuple[np.ndarray, int]:
    """Each group's part in the loss, summed over steps: float64 [num_groups], and the steps that have a loss.

    The loss of a step is the mean over its supervised tokens, so a group's weight in it is its share of them; over
    training every step counts alike. Divide by the steps for the mean weight.
    """
    num_steps = -(-len(taken) // samples_per_step)
    step = np.arange(len(taken)) // samples_per_step
    cells = np.bincount(step * num_groups + group, taken.supervised, num_steps * num_groups)
    by_step = cells.reshape(num_steps, num_groups)
    totals = by_step.sum(axis=1, keepdims=True)
    has_loss = totals[:, 0] > 0
    return (by_step[has_loss] / totals[has_loss]).sum(axis=0), int(has_loss.sum())
