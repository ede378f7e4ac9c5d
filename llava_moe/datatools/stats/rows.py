"""Packed rows as they are trained: each segment with its record, its pieces and the pixels that the batch holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llava_moe.data.batch import Batch
from llava_moe.data.mixture import EpochPlan
from llava_moe.data.quarantine import Quarantined
from llava_moe.data.stream import Step, StepStream
from llava_moe.datatools.stats.token_pieces import Piece, read_pieces


@dataclass(frozen=True)
class RowTokens:
    """The account of a row's tokens; ``idle``: those of holes and null segments."""

    image: int
    prompt: int
    supervised: int
    idle: int

    @property
    def all(self) -> int:
        """Tokens of the row."""
        return self.image + self.prompt + self.supervised + self.idle


@dataclass(frozen=True)
class Segment:
    """One example in its row.

    Attributes:
        kind: ``sample``; ``hole`` (a record that failed to decode); ``null`` (an image that keeps ranks in step).
        source, domain, id, number: of its record; number counts in the source's file from 0. Empty and -1 for ``null``.
        sample: its place in the step, -1 for ``null``.
        start: its first token's place in the row.
        pixels: uint8 [H, W, 3] of each image, or of each of its tiles.
        fault: of a hole, why.
    """

    kind: Literal["sample", "hole", "null"]
    source: str
    domain: str
    id: str
    number: int
    key: str
    sample: int
    start: int
    pieces: tuple[Piece, ...]
    pixels: tuple[np.ndarray, ...]
    fault: Quarantined | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the segment."""
        return sum(len(piece.tokens) for piece in self.pieces)

    def num_tokens_of(self, kind: str) -> int:
        """Tokens of the pieces of one kind."""
        return sum(len(piece.tokens) for piece in self.pieces if piece.kind == kind)


@dataclass(frozen=True)
class Row:
    """One micro-batch; ``number`` counts in its step, of ``num_rows`` on this rank. ``room``: most tokens of a row."""

    epoch: int
    step: int
    number: int
    num_rows: int
    room: int
    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> RowTokens:
        """The account of the row's tokens."""
        samples = [segment for segment in self.segments if segment.kind == "sample"]
        idle = sum(segment.num_tokens for segment in self.segments if segment.kind != "sample")
        image, prompt, supervised = (
            sum(segment.num_tokens_of(kind) for segment in samples) for kind in ("image", "prompt", "supervised")
        )
        return RowTokens(image, prompt, supervised, idle)


def first_rows(stream: StepStream, epoch: int, first_step: int, num_rows: int) -> Iterator[Row]:
    """The first ``num_rows`` rows of an epoch from a step on, as this rank trains them; fewer at the epoch's end."""
    if not num_rows:
        return
    plan = stream.mixture.plan(stream.indexes, epoch)
    shown = 0
    for step in stream.iterate(epoch, first_step):
        for number, batch in enumerate(step.batches):
            yield Row(
                epoch=step.epoch,
                step=step.index,
                number=number,
                num_rows=len(step.batches),
                room=stream.tokens_per_micro_batch,
                segments=tuple(_segments(stream, plan, step, batch)),
            )
            shown += 1
            if shown == num_rows:
                return


def _segments(stream: StepStream, plan: EpochPlan, step: Step, batch: Batch) -> Iterator[Segment]:
    input_ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    encoder = stream.encoder
    sizes, transform = batch.image_sizes, encoder.transform
    # Images of unequal tokens are told by their sizes, which the row has in order.
    places = encoder.tokens_of_images(len(sizes), sizes).tolist()
    entries = [transform.num_entries(size) for size in sizes]
    start = first_image = first_entry = 0
    for place, length in enumerate(batch.segment_lengths):
        part = slice(start, start + length)
        each = encoder.num_image_tokens if isinstance(encoder.num_image_tokens, int) else places[first_image:]
        pieces = read_pieces(encoder.tokenizer, input_ids[part], labels[part], encoder.image_token_id, each)
        num_images = sum(piece.kind == "image" for piece in pieces)
        num_entries = sum(entries[first_image : first_image + num_images]) if sizes else num_images
        pixels = batch.pixel_values[first_entry : first_entry + num_entries].permute(0, 2, 3, 1).numpy()
        yield _segment(stream, plan, step, batch, place, start, pieces, tuple(pixels))
        start, first_image, first_entry = start + length, first_image + num_images, first_entry + num_entries


def _segment(
    stream: StepStream,
    plan: EpochPlan,
    step: Step,
    batch: Batch,
    place: int,
    start: int,
    pieces: tuple[Piece, ...],
    pixels: tuple[np.ndarray, ...],
) -> Segment:
    sample, key = batch.sample_positions[place], batch.keys[place]
    if sample < 0:
        return Segment("null", "", "", "", -1, key, sample, start, pieces, pixels)
    at = step.index * stream.global_batch_size + sample
    source = stream.mixture.sources[int(plan.source[at])]
    records, row = stream.records[int(plan.source[at])], int(plan.row[at])
    number = records.number(row)
    is_real = bool(batch.is_real[place])
    return Segment(
        kind="sample" if is_real else "hole",
        source=source.name,
        domain=source.domain,
        id=records.read(row, row + 1)[0].id,
        number=number,
        key=key,
        sample=sample,
        start=start,
        pieces=pieces,
        pixels=pixels,
        fault=None if is_real else _fault(step.bad, source.name, number),
    )


def _fault(bad: Sequence[Quarantined], source: str, number: int) -> Quarantined | None:
    return next((entry for entry in bad if entry.source == source and entry.index == number), None)
