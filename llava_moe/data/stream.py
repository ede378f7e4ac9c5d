"""The epoch as a stream of optimizer steps, decoded ahead in worker processes. Its whole state is (epoch, step)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from torch.utils.data import Dataset

from llava_moe.data.batch import Batch, collate_row
from llava_moe.data.conversation import BadRecord, Conversation
from llava_moe.data.encode import Encoder, Example
from llava_moe.data.features.table import FeatureTable
from llava_moe.data.images.deep_values import DarkImage
from llava_moe.data.mixture import EpochPlan, Mixture
from llava_moe.data.ordered_prefetch import prefetch_in_order
from llava_moe.data.pack import CostModel, balance_and_pack
from llava_moe.data.quarantine import Quarantined
from llava_moe.data.records import Records
from llava_moe.data.source_index import SourceIndex
from llava_moe.errors import UserError


@dataclass(frozen=True)
class Step:
    """One optimizer step, as one rank sees it.

    Attributes:
        index: the step's number in its epoch, from 0.
        batches: this rank's rows; every rank has equally many.
        keys: the record keys of all samples of the step, on all ranks, in plan order.
        bad: records of this rank that failed to decode and left holes.
        dark: images of this rank that come out nearly black, with their source's name before their own.
        padding_share: share of this rank's tokens that belong to no real sample (null segments and holes).
    """

    epoch: int
    index: int
    batches: tuple[Batch, ...]
    keys: tuple[str, ...]
    bad: tuple[Quarantined, ...]
    padding_share: float
    dark: tuple[DarkImage, ...] = ()


@dataclass(frozen=True)
class StepStream:
    """Steps of an epoch from a mixture.

    A step is ``global_batch_size`` samples in plan order (the last of an epoch may be short). Every rank works out the
    same plan and seating and decodes its own rows only. What a step holds depends on (epoch, step) alone, never on
    the number of workers or on where the iteration began.

    Attributes:
        indexes, records: one a source of the mixture.
        null_image: the encoder's, for rows that hold no image; None where ranks need not agree.
        num_workers: processes that decode ahead; 0 decodes in this one.
        prefetch: steps that each worker keeps ready.
        start_method: ``fork``, ``spawn``, ... for the workers; None for the platform's own.
        pin_memory: put batches into page-locked memory, for a device that copies from there.
        features: where the features of these records' images are kept: no image is opened then.
    """

    mixture: Mixture
    indexes: Sequence[SourceIndex]
    records: Sequence[Records]
    encoder: Encoder
    global_batch_size: int
    tokens_per_micro_batch: int
    rank: int = 0
    world: int = 1
    num_workers: int = 0
    null_image: np.ndarray | None = None
    prefetch: int = 2
    start_method: str | None = None
    pin_memory: bool = False
    cost: CostModel = field(default_factory=CostModel)
    features: FeatureTable | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world}")
        if self.global_batch_size < 1:
            raise UserError(f"train.global_batch_size={self.global_batch_size}: must be at least 1")
        if not len(self.indexes) == len(self.records) == len(self.mixture.sources):
            raise ValueError(
                f"{len(self.mixture.sources)} sources, {len(self.indexes)} indexes, {len(self.records)} records"
            )
        longest = max(int(index.lengths.max(initial=0)) for index in self.indexes)
        if longest > self.tokens_per_micro_batch:
            raise UserError(
                f"train.tokens_per_micro_batch={self.tokens_per_micro_batch}: the longest sample has {longest} tokens; "
                f"raise it to {longest} or more, or lower train.max_length"
            )

    @property
    def samples_in_epoch(self) -> int:
        """Samples of every epoch."""
        return sum(self.mixture.counts(self.indexes))

    def steps_in_epoch(self, epoch: int = 0) -> int:
        """Optimizer steps of an epoch: the same for every epoch of one mixture."""
        return -(-self.samples_in_epoch // self.global_batch_size)

    def iterate(self, epoch: int, first_step: int = 0) -> Generator[Step, None, None]:
        """The steps of an epoch from ``first_step`` on, in order."""
        plan = self.mixture.plan(self.indexes, epoch)
        remaining = range(first_step, self.steps_in_epoch(epoch))
        if not remaining:
            return
        steps = prefetch_in_order(
            _StepDecoder(self, plan), remaining, self.num_workers, self.prefetch, self.start_method, self.pin_memory
        )
        with closing(steps):
            for ready in steps:
                yield self._assemble(epoch, ready, plan)

    def _assemble(self, epoch: int, ready: _Ready, plan: EpochPlan) -> Step:
        batches = ready.batches
        idle = sum(
            length
            for batch in batches
            for length, is_real in zip(batch.segment_lengths, batch.is_real.tolist(), strict=True)
            if not is_real
        )
        first = ready.index * self.global_batch_size
        keys = tuple(
            self.indexes[source].keys[entry].tobytes().hex()
            for source, entry in zip(
                plan.source[first : first + self.global_batch_size].tolist(),
                plan.entry[first : first + self.global_batch_size].tolist(),
                strict=True,
            )
        )
        padding_share = idle / sum(batch.num_tokens for batch in batches)
        return Step(epoch, ready.index, batches, keys, ready.bad, padding_share, ready.dark)


@dataclass(frozen=True)
class _Ready:
    """What a worker hands over: a step's rows, collated.

    They go by pipe, as numpy arrays: shared memory, which tensors would take, is often too small in containers. Where
    the loader pins, its thread unpacks and pins them while the step before is computed.
    """

    index: int
    batches: tuple[Batch, ...]
    bad: tuple[Quarantined, ...]
    dark: tuple[DarkImage, ...]

    def pin_memory(self) -> _Ready:
        """The same in page-locked memory, from which a device copies without waiting; called by torch's loader."""
        return replace(self, batches=tuple(batch.pin_memory() for batch in self.batches))


class _StepDecoder(Dataset[_Ready]):
    """Step number to this rank's decoded and collated rows."""

    def __init__(self, stream: StepStream, plan: EpochPlan) -> None:
        self.stream = stream
        self.plan = plan

    def __getitem__(self, index: int) -> _Ready:
        stream = self.stream
        first = index * stream.global_batch_size
        step = slice(first, first + stream.global_batch_size)
        seats = balance_and_pack(
            self.plan.length[step].tolist(),
            self.plan.num_images[step].tolist(),
            stream.tokens_per_micro_batch,
            stream.world,
            stream.cost,
        )[stream.rank]
        bad: list[Quarantined] = []
        dark: list[DarkImage] = []
        batches = tuple(
            collate_row(
                stream.encoder,
                [self._decode(first + position, bad, dark) for position in row],
                row,
                stream.null_image,
                None if stream.features is None else stream.features.null_slot,
            )
            for row in seats
        )
        return _Ready(index, batches, tuple(bad), tuple(dark))

    def _decode(self, at: int, bad: list[Quarantined], dark: list[DarkImage]) -> Example:
        """The example of sample ``at`` of the epoch, or a hole of its planned length."""
        place, row = int(self.plan.source[at]), int(self.plan.row[at])
        length = int(self.plan.length[at])
        source, records = self.stream.mixture.sources[place], self.stream.records[place]
        domain = self.stream.mixture.domains.index(source.domain)
        key = self.stream.indexes[place].keys[int(self.plan.entry[at])].tobytes().hex()
        name = str(row)
        try:
            conversation = records[row]
            name = conversation.id
            example = self._encode(conversation, place, row, domain)
        except BadRecord as fault:
            bad.append(Quarantined(source.name, source.domain, records.number(row), name, fault.reason, fault.detail))
            return self.stream.encoder.placeholder_example(length, domain, key)
        if len(example.input_ids) != length:
            raise UserError(
                f"record {records.number(row)} of {source.name} has {len(example.input_ids)} tokens, where {length} "
                "were planned: its file changed while training; leave it as it is and run the same command again"
            )
        dark += [replace(one, name=f"{source.name}/{one.name}") for one in example.dark]
        return replace(example, key=key)

    def _encode(self, conversation: Conversation, place: int, row: int, domain: int) -> Example:
        stream, source = self.stream, self.stream.mixture.sources[place]
        if stream.features is None:
            root = stream.records[place].image_root
            return stream.encoder.encode(conversation, root, domain, source.value_range)
        text = stream.encoder.encode_text(conversation)
        if not text.num_images:
            return stream.encoder.with_pixels(text, conversation, None, domain)
        return stream.encoder.with_features(text, conversation, domain, stream.features.of_record(place, row))
