"""Sources, domains and all of them as groups: the records of each, and its part of an epoch and of the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_moe.data.mixture import Mixture
from llava_moe.data.quarantine import TOO_LONG, Quarantined
from llava_moe.data.records import Source
from llava_moe.data.source_index import SourceIndex
from llava_moe.datatools.stats.lengths import LengthSummary, summarize
from llava_moe.datatools.stats.token_counts import Taken, Tally, loss_shares, tally_by


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
            (None for several sources together).
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
class Opened:
    """A mixture with its sources indexed; ``held_out`` (one a source, or none) and ``listed`` are not among them."""

    mixture: Mixture
    indexes: Sequence[SourceIndex]
    held_out: Sequence[SourceIndex] = ()
    listed: Sequence[Quarantined] = ()


@dataclass
class Sums:
    """Sums over epochs by source, added to one epoch at a time.

    Attributes:
        loss_by_source: float64, each source's share of a step's supervised tokens, summed over ``loss_steps`` steps.
        seen: for each source bool [n], the usable records that came up.
    """

    tallies: list[Tally]
    loss_by_source: np.ndarray
    seen: list[np.ndarray]
    loss_steps: int = 0

    @classmethod
    def empty(cls, mixture: Mixture, indexes: Sequence[SourceIndex]) -> Sums:
        """Nothing counted yet."""
        return cls(
            tallies=[Tally()] * len(mixture.sources),
            loss_by_source=np.zeros(len(mixture.sources)),
            seen=[np.zeros(len(index.rows), dtype=bool) for index in indexes],
        )

    def add(self, taken: Taken, num_image_tokens: int | None, samples_per_step: int) -> None:
        """Count the samples of an epoch, or of its beginning."""
        counted = tally_by(taken.source, len(self.tallies), taken, num_image_tokens)
        self.tallies = [before + more for before, more in zip(self.tallies, counted, strict=True)]
        by_source, steps = loss_shares(taken.source, len(self.tallies), taken, samples_per_step)
        self.loss_by_source = self.loss_by_source + by_source
        self.loss_steps += steps
        for place, seen in enumerate(self.seen):
            seen[taken.entry[taken.source == place]] = True


def group_all(opened: Opened, first: Sums, whole: Sums, taken: Taken, bin_width: int) -> tuple[Group, ...]:
    """Every source, every domain, and all.

    Args:
        first, whole: the sums over the first epoch and over the training.
        taken: the first epoch's samples.
    """
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
                lengths=summarize(lengths, bin_width),
            )
        )
    return tuple(found)


def _passes(members: Sequence[int], records: Sequence[RecordAccount], first: Sums) -> tuple[int | None, int | None]:
    if len(members) > 1 or not records[members[0]].usable:
        return None, None
    return divmod(first.tallies[members[0]].samples, records[members[0]].usable)


def _share(sums: Sums, members: Sequence[int]) -> Share:
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
