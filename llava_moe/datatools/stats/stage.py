"""The account of a stage: by source, by domain and in all, of an epoch and of the whole training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llava_moe.data.mixture import Mixture
from llava_moe.data.source_index import SourceIndex
from llava_moe.datatools.stats.groups import Group, Opened, Sums, group_all
from llava_moe.datatools.stats.lengths import bin_width_for
from llava_moe.datatools.stats.mixture_formula import CountBesideFormula, beside_formula
from llava_moe.datatools.stats.packing_stats import PackingRequest, PackingStats, count_packing
from llava_moe.datatools.stats.token_counts import Taken, take


@dataclass(frozen=True)
class StageAccount:
    """Everything there is to say of a stage's data.

    Attributes:
        steps: optimizer steps of the training; ``steps_per_epoch``: of its first epoch.
        epochs: epochs of the training, the last one counted by its share of steps.
        epochs_counted: whole or begun epochs that ``training`` sums over; fewer than there are if so asked.
        num_image_tokens: places of every image in the sequence; None where they differ.
        max_bad_share: the largest share of bad records that a source may have before training refuses it.
    """

    title: str
    groups: tuple[Group, ...]
    counts: tuple[CountBesideFormula, ...]
    seating: PackingStats
    seats: PackingRequest
    num_image_tokens: int | None
    max_length: int
    over_length: str
    steps: int
    steps_per_epoch: int
    epochs: float
    epochs_counted: int
    max_bad_share: float

    @property
    def refused(self) -> tuple[Group, ...]:
        """Sources with more bad records than training accepts; those left out for their length are none."""
        found = [(group, group.records) for group in self.of("source")]
        return tuple(group for group, records in found if records.bad > self.max_bad_share * records.num_records)

    def of(self, kind: str) -> tuple[Group, ...]:
        """The groups of one kind."""
        return tuple(group for group in self.groups if group.kind == kind)

    @property
    def all(self) -> Group:
        """The group of everything."""
        return self.of("all")[0]


@dataclass(frozen=True)
class Training:
    """How long a stage trains: ``max_steps``, or else ``epochs``; ``most_epochs`` bounds how many are counted."""

    epochs: int | None
    max_steps: int | None
    most_epochs: int | None = None


def account_stage(
    title: str,
    opened: Opened,
    seats: PackingRequest,
    training: Training,
    num_image_tokens: int | None,
    max_length: int,
    over_length: str,
    progress: Callable[[int, int], None] | None = None,
) -> StageAccount:
    """Count a stage from its sources' indexes and its plan; no record is read.

    Args:
        progress: called with (epochs counted, epochs to count).
    """
    mixture, indexes = opened.mixture, opened.indexes
    first, whole = Sums.empty(mixture, indexes), Sums.empty(mixture, indexes)
    first_epoch = take(mixture.plan(indexes, 0), indexes)
    first.add(first_epoch, num_image_tokens, seats.samples_per_step)
    per_epoch = _steps(first_epoch, seats)
    steps, epochs = _length(mixture, indexes, seats, training, per_epoch)
    counted = len(epochs) if training.most_epochs is None else min(len(epochs), training.most_epochs)
    for epoch, num_steps in enumerate(epochs[:counted]):
        taken = first_epoch if epoch == 0 else take(mixture.plan(indexes, epoch), indexes)
        whole.add(taken.first(num_steps * seats.samples_per_step), num_image_tokens, seats.samples_per_step)
        if progress is not None:
            progress(epoch + 1, counted)
    return StageAccount(
        title=title,
        groups=group_all(opened, first, whole, first_epoch, bin_width_for(int(first_epoch.length.max()))),
        counts=beside_formula(mixture, indexes, first_epoch),
        seating=count_packing(first_epoch, seats),
        seats=seats,
        num_image_tokens=num_image_tokens,
        max_length=max_length,
        over_length=over_length,
        steps=steps,
        steps_per_epoch=per_epoch,
        epochs=steps / per_epoch,
        epochs_counted=counted,
        max_bad_share=mixture.max_bad_share,
    )


def _steps(taken: Taken, seats: PackingRequest) -> int:
    return -(-len(taken) // seats.samples_per_step)


def _length(
    mixture: Mixture, indexes: Sequence[SourceIndex], seats: PackingRequest, training: Training, per_epoch: int
) -> tuple[int, list[int]]:
    """Steps of the training, and of each of its epochs in turn."""
    if training.max_steps is None:
        epochs = [per_epoch] * (training.epochs or 0)
        return sum(epochs), epochs
    whole, rest = divmod(training.max_steps, per_epoch)
    return training.max_steps, [per_epoch] * whole + ([rest] if rest else [])
