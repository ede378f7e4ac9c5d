"""The steps of a run, counted from its own plan: samples, tokens and passes over each source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.mixture import EpochPlan, Mixture
from llava_moe.data.source_index import SourceIndex
from llava_moe.plan.dummy_rows import NullImage, RowPacking, StepSamples, seat_steps

# Steps that are seated to see their rows; of a longer run, this many spread evenly over it.
MOST_SEATED = 1000


@dataclass(frozen=True)
class SourceSteps:
    """What a run takes of a source.

    Attributes:
        num_records: usable records; with ``is_expected`` as published, not counted here.
        samples, tokens, supervised: of the whole run; ``passes``: samples over records.
    """

    name: str
    domain: str
    num_records: int
    samples: int
    tokens: int
    supervised: int
    is_expected: bool

    @property
    def passes(self) -> float:
        return self.samples / max(1, self.num_records)


@dataclass(frozen=True)
class Steps:
    """The whole run in numbers.

    Attributes:
        picked: the samples of the steps that were picked to be seated, by step.
        longest: tokens of the longest sample.
    """

    num_steps: int
    steps_in_epoch: int
    sources: tuple[SourceSteps, ...]
    picked: tuple[StepSamples, ...]
    longest: int

    @property
    def samples(self) -> int:
        return sum(source.samples for source in self.sources)

    @property
    def tokens(self) -> int:
        return sum(source.tokens for source in self.sources)

    @property
    def supervised(self) -> int:
        return sum(source.supervised for source in self.sources)

    @property
    def is_expected(self) -> bool:
        """Whether some of it is not counted but published."""
        return any(source.is_expected for source in self.sources)

    def seat(self, tokens_per_row: int, num_ranks: int, null_image: NullImage | None) -> RowPacking:
        """The rows of the picked steps on this many devices."""
        return seat_steps(self.picked, tokens_per_row, num_ranks, null_image)


def count_steps(
    mixture: Mixture,
    indexes: Sequence[SourceIndex],
    num_steps: int,
    steps_in_epoch: int,
    samples_per_step: int,
    expected: Sequence[str] = (),
    num_entries: Callable[[ImageSize], int] = lambda _: 1,
) -> Steps:
    """Walk through the epochs of a run as training does.

    Args:
        expected: names of the sources whose index stands in for data that is not there.
        num_entries: of the pixels of an image, by its size.
    """
    samples, tokens, supervised = (np.zeros(len(indexes), np.int64) for _ in range(3))
    picked: list[StepSamples] = []
    entries = cache(num_entries)
    ends = [np.cumsum(index.num_images.astype(np.int64)) for index in indexes if index.image_sizes is not None]
    wanted = set(np.linspace(0, num_steps - 1, min(num_steps, MOST_SEATED), dtype=np.int64).tolist())
    longest = 0
    for first_step, plan in _epochs(mixture, indexes, num_steps, steps_in_epoch, samples_per_step):
        labeled = _supervised_of(plan, indexes)
        samples += np.bincount(plan.source, minlength=len(indexes))
        tokens += np.bincount(plan.source, plan.length, len(indexes)).astype(np.int64)
        supervised += np.bincount(plan.source, labeled, len(indexes)).astype(np.int64)
        longest = max(longest, int(plan.length.max()))
        for number in range(-(-len(plan) // samples_per_step)):
            if first_step + number in wanted:
                step = slice(number * samples_per_step, (number + 1) * samples_per_step)
                sizes = _sizes_of(plan, indexes, ends, step)
                each = None if sizes is None else np.asarray([entries((w, h)) for w, h in sizes.tolist()], np.int64)
                picked.append(StepSamples(plan.length[step], plan.num_images[step], labeled[step], sizes, each))
    sources = tuple(
        SourceSteps(
            name=source.name,
            domain=source.domain,
            num_records=len(index.rows),
            samples=int(samples[place]),
            tokens=int(tokens[place]),
            supervised=int(supervised[place]),
            is_expected=source.name in expected,
        )
        for place, (source, index) in enumerate(zip(mixture.sources, indexes, strict=True))
    )
    return Steps(num_steps, steps_in_epoch, sources, tuple(picked), longest)


def _supervised_of(plan: EpochPlan, indexes: Sequence[SourceIndex]) -> np.ndarray:
    """int32 [n], the supervised tokens of each sample of an epoch."""
    supervised = np.empty(len(plan), np.int32)
    for place, index in enumerate(indexes):
        mine = plan.source == place
        supervised[mine] = index.supervised[plan.entry[mine]]
    return supervised


def _sizes_of(
    plan: EpochPlan, indexes: Sequence[SourceIndex], ends: Sequence[np.ndarray], step: slice
) -> np.ndarray | None:
    """int32 [I, 2]: the sizes of the images of a step; None where all images are given alike.

    Args:
        ends: int [n] of each index, where the images of each record end.
    """
    found = [np.empty((0, 2), np.int32)]
    for place, entry, count in zip(plan.source[step], plan.entry[step], plan.num_images[step], strict=True):
        sizes = indexes[place].image_sizes
        if sizes is None:
            return None
        found.append(sizes[ends[place][entry] - count : ends[place][entry]])
    return np.concatenate(found)


def _epochs(
    mixture: Mixture, indexes: Sequence[SourceIndex], num_steps: int, steps_in_epoch: int, samples_per_step: int
) -> Iterator[tuple[int, EpochPlan]]:
    """The number of each epoch's first step, and its plan, cut where the run ends."""
    for epoch, first_step in enumerate(range(0, num_steps, steps_in_epoch)):
        plan = mixture.plan(indexes, epoch)
        end = (num_steps - first_step) * samples_per_step
        if end < len(plan):
            columns = ("source", "entry", "row", "length", "num_images")
            plan = EpochPlan(*(getattr(plan, column)[:end] for column in columns))
        yield first_step, plan


def stand_in(
    num_records: int, lengths: Sequence[int], supervised: Sequence[int], image_size: ImageSize | None = None
) -> SourceIndex:
    """The index of a source that is not there: so many records, each with an image.

    Args:
        lengths, supervised: tokens of the records in turn.
        image_size: of every image; None where all images are given alike.
    """
    rows = np.arange(num_records)
    return SourceIndex(
        rows=rows,
        lengths=np.resize(np.asarray(lengths, np.int32), num_records),
        supervised=np.resize(np.asarray(supervised, np.int32), num_records),
        num_images=np.ones(num_records, np.int16),
        # No memory: all rows of it are one.
        keys=np.broadcast_to(np.zeros(32, np.uint8), (num_records, 32)),
        num_records=num_records,
        num_cut=0,
        bad=(),
        image_ids=rows.astype(np.uint64),
        image_sizes=None if image_size is None else np.broadcast_to(np.asarray(image_size), (num_records, 2)),
    )
