"""The account of a stage: by source, by domain and in all, of an epoch and of the whole training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_moe.account.formula import CountBesideFormula, beside_formula
from llava_moe.account.lengths import LengthSummary, bin_width_for, summarise
from llava_moe.account.seating import SeatingAccount, Seats, account_seating
from llava_moe.account.tally import Taken, Tally, loss_shares, take, tally_by
from llava_moe.data.lengths import SourceIndex
from llava_moe.data.mixture import Mixture
from llava_moe.data.quarantine import TOO_LONG, Quarantined
from llava_moe.data.records import Source


@dataclass(frozen=True)
class RecordAccount:
    """Records of a group before any is drawn; ``num_records = usable + sum(left_out) + listed + held_out``.

    Attributes:
        left_out: those that cannot be trained on, by reason.
        listed: others that ``data.quarantine`` lists.
        held_out: others that ``data.held_out`` keeps out of training.
        cut: records of the source that lost turns to fit.
        bad: those of ``left_out`` that count against ``data.max_bad_share``: neither too long nor listed.
    """

    num_records: int
    usable: int
    left_out: dict[str, int]
    listed: int
    held_out: int
    cut: int
    bad: int

    @property
    def num_left_out(self) -> int:
        """Records that cannot be trained on."""
        return sum(self.left_out.values())


@dataclass(frozen=True)
class Share:
    """A group's part of an epoch or of the training.

    Attributes:
        of_samples, of_tokens, of_supervised: shares of the sums.
        of_loss: mean over steps of its share of the step's supervised tokens: its weight in the loss.
    """

    tally: Tally
    of_samples: float
    of_tokens: float
    of_supervised: float
    of_loss: float


@dataclass(frozen=True)
class Group:
    """A source, a domain, or all.

    Attributes:
        whole_passes, drawn: an epoch shows every usable record ``whole_passes`` times and ``drawn`` of them once more
            (both summed over sources of one group only where they agree; None where they differ).
        seen: usable records that the training shows at least once.
        lengths: of the epoch's samples; None where it takes none.
    """

    kind: Literal["source", "domain", "all"]
    name: str
    domain: str
    records: RecordAccount
    whole_passes: int | None
    drawn: int | None
    epoch: Share
    training: Share
    seen: int
    lengths: LengthSummary | None

    @property
    def passes(self) -> float:
        """Samples of an epoch for each usable record."""
        return self.epoch.tally.samples / self.records.usable if self.records.usable else 0.0

    @property
    def training_passes(self) -> float:
        """Samples of the training for each usable record."""
        return self.training.tally.samples / self.records.usable if self.records.usable else 0.0


@dataclass(frozen=True)
class StageAccount:
    """Everything there is to say of a stage's data.

    Attributes:
        steps: optimizer steps of the training; ``steps_per_epoch``: of its first epoch.
        epochs: epochs of the training, the last one counted by its share of steps.
        epochs_counted: whole or begun epochs that ``training`` sums over; fewer than there are if so asked.
        max_bad_share: the largest share of bad records that a source may have before training refuses it.
    """

    title: str
    groups: tuple[Group, ...]
    counts: tuple[CountBesideFormula, ...]
    seating: SeatingAccount
    seats: Seats
    num_image_tokens: int
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
class Opened:
    """A mixture with its sources indexed; ``held_out`` (one a source, or none) and ``listed`` are not among them."""

    mixture: Mixture
    indexes: Sequence[SourceIndex]
    held_out: Sequence[SourceIndex] = ()
    listed: Sequence[Quarantined] = ()


@dataclass(frozen=True)
class Training:
    """How long a stage trains: ``max_steps``, or else ``epochs``; ``most_epochs`` bounds how many are counted."""

    epochs: int | None
    max_steps: int | None
    most_epochs: int | None = None


@dataclass
class _Sums:
    """Sums over epochs, by source and by domain; ``seen`` marks the records of each source that came up."""

    tallies: list[Tally]
    loss_by_source: np.ndarray
    seen: list[np.ndarray]
    loss_steps: int = 0

    @classmethod
    def empty(cls, mixture: Mixture, indexes: Sequence[SourceIndex]) -> _Sums:
        return cls(
            tallies=[Tally()] * len(mixture.sources),
            loss_by_source=np.zeros(len(mixture.sources)),
            seen=[np.zeros(len(index.rows), dtype=bool) for index in indexes],
        )

    def add(self, taken: Taken, num_image_tokens: int, samples_per_step: int) -> None:
        counted = tally_by(taken.source, len(self.tallies), taken, num_image_tokens)
        self.tallies = [before + more for before, more in zip(self.tallies, counted, strict=True)]
        by_source, steps = loss_shares(taken.source, len(self.tallies), taken, samples_per_step)
        self.loss_by_source = self.loss_by_source + by_source
        self.loss_steps += steps
        for place, seen in enumerate(self.seen):
            seen[taken.entry[taken.source == place]] = True


def account_stage(
    title: str,
    opened: Opened,
    seats: Seats,
    training: Training,
    num_image_tokens: int,
    max_length: int,
    over_length: str,
    progress: Callable[[int, int], None] | None = None,
) -> StageAccount:
    """Count a stage from its sources' indexes and its plan; no record is read.

    Args:
        progress: called with (epochs counted, epochs to count).
    """
    mixture, indexes = opened.mixture, opened.indexes
    first, whole = _Sums.empty(mixture, indexes), _Sums.empty(mixture, indexes)
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
        groups=_groups(opened, first, whole, first_epoch, bin_width_for(int(first_epoch.length.max()))),
        counts=beside_formula(mixture, indexes, first_epoch),
        seating=account_seating(first_epoch, seats),
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


def _steps(taken: Taken, seats: Seats) -> int:
    return -(-len(taken) // seats.samples_per_step)


def _length(
    mixture: Mixture, indexes: Sequence[SourceIndex], seats: Seats, training: Training, per_epoch: int
) -> tuple[int, list[int]]:
    """Steps of the training, and of each of its epochs in turn."""
    if training.max_steps is None:
        epochs = [per_epoch] * (training.epochs or 0)
        return sum(epochs), epochs
    whole, rest = divmod(training.max_steps, per_epoch)
    return training.max_steps, [per_epoch] * whole + ([rest] if rest else [])


def _groups(opened: Opened, first: _Sums, whole: _Sums, taken: Taken, bin_width: int) -> tuple[Group, ...]:
    mixture = opened.mixture
    held_out = [len(index.rows) for index in opened.held_out] or [0] * len(mixture.sources)
    records = [
        _records(source, index, num_held_out, opened.listed)
        for source, index, num_held_out in zip(mixture.sources, opened.indexes, held_out, strict=True)
    ]
    places = range(len(mixture.sources))
    found = []
    chosen: list[tuple[Literal["source", "domain", "all"], str, str, list[int]]] = [
        *(("source", source.name, source.domain, [place]) for place, source in enumerate(mixture.sources)),
        *(
            ("domain", domain, domain, [place for place in places if mixture.sources[place].domain == domain])
            for domain in mixture.domains
        ),
        ("all", "all", "", list(places)),
    ]
    for kind, name, domain, members in chosen:
        lengths = taken.length[np.isin(taken.source, members)]
        whole_passes, drawn = _passes(members, records, first)
        found.append(
            Group(
                kind=kind,
                name=name,
                domain=domain,
                records=_sum_records([records[place] for place in members]),
                whole_passes=whole_passes,
                drawn=drawn,
                epoch=_share(first, members),
                training=_share(whole, members),
                seen=sum(int(whole.seen[place].sum()) for place in members),
                lengths=summarise(lengths, bin_width),
            )
        )
    return tuple(found)


def _passes(members: Sequence[int], records: Sequence[RecordAccount], first: _Sums) -> tuple[int | None, int | None]:
    if len(members) > 1 or not records[members[0]].usable:
        return None, None
    return divmod(first.tallies[members[0]].samples, records[members[0]].usable)


def _share(sums: _Sums, members: Sequence[int]) -> Share:
    part = sum((sums.tallies[place] for place in members), Tally())
    total = sum(sums.tallies, Tally())
    return Share(
        tally=part,
        of_samples=part.samples / max(1, total.samples),
        of_tokens=part.tokens / max(1, total.tokens),
        of_supervised=part.supervised_tokens / max(1, total.supervised_tokens),
        of_loss=float(sums.loss_by_source[list(members)].sum()) / max(1, sums.loss_steps),
    )


def _records(source: Source, index: SourceIndex, num_held_out: int, listed: Sequence[Quarantined]) -> RecordAccount:
    reasons = Counter(entry.reason for entry in index.bad)
    accepted = {entry.index for entry in listed if entry.source == source.name}
    return RecordAccount(
        num_records=index.num_records,
        usable=len(index.rows),
        left_out=dict(reasons.most_common()),
        listed=index.num_records - len(index.rows) - len(index.bad) - num_held_out,
        held_out=num_held_out,
        cut=index.num_cut,
        bad=sum(entry.reason != TOO_LONG and entry.index not in accepted for entry in index.bad),
    )


def _sum_records(accounts: Sequence[RecordAccount]) -> RecordAccount:
    reasons: Counter[str] = Counter()
    for account in accounts:
        reasons.update(account.left_out)
    sums = {
        name: sum(getattr(account, name) for account in accounts)
        for name in ("num_records", "usable", "listed", "held_out", "cut", "bad")
    }
    return RecordAccount(left_out=dict(reasons.most_common()), **sums)
