"""The packed rows that a run will have, from the lengths of its samples; and a row of that make without content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_moe.data.batch import Batch, collate_row
from llava_moe.data.encode import IGNORED, Encoder, Example
from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.pack import CostModel, balance_and_pack


@dataclass(frozen=True)
class StepSamples:
    """The samples of one step, n of them.

    Attributes:
        lengths, num_images, supervised: int [n], tokens (images expanded), images and supervised tokens of each.
        image_sizes: int [sum(num_images), 2], of their images in order; None where all images are given alike.
        image_entries: int [sum(num_images)], each one's entries along the first axis of pixels; None: 1 each.
    """

    lengths: np.ndarray
    num_images: np.ndarray
    supervised: np.ndarray
    image_sizes: np.ndarray | None = None
    image_entries: np.ndarray | None = None

    def entries(self) -> np.ndarray:
        """int [n]: entries of the pixels of each sample."""
        if self.image_entries is None:
            return self.num_images
        ends = np.cumsum(self.num_images.astype(np.int64))
        total = np.concatenate([[0], np.cumsum(self.image_entries)])
        return np.asarray(total[ends] - total[ends - self.num_images])

    def sizes_of(self, seats: Sequence[int]) -> tuple[tuple[ImageSize, ...], ...]:
        """Of each of these samples, the sizes of its images; empty where all images are given alike."""
        if self.image_sizes is None:
            return ()
        ends = np.cumsum(self.num_images.astype(np.int64))
        mine = [self.image_sizes[ends[at] - self.num_images[at] : ends[at]] for at in seats]
        return tuple(tuple((width, height) for width, height in sizes.tolist()) for sizes in mine)


@dataclass(frozen=True)
class NullImage:
    """The example that a row without images gets, where ranks must all see one: its tokens, and its image's size.

    The size is None where all images are given alike.
    """

    num_tokens: int
    size: ImageSize | None = None

    @classmethod
    def of(cls, encoder: Encoder) -> NullImage:
        """That of a model's data."""
        return cls(encoder.num_null_tokens, None if encoder.has_equal_images else encoder.transform.null_size)


@dataclass(frozen=True)
class Row:
    """The examples of a packed row: tokens (images expanded), images and supervised tokens of each.

    ``image_sizes`` are those of each example's images, and none where all images are given alike.
    """

    lengths: tuple[int, ...]
    num_images: tuple[int, ...]
    supervised: tuple[int, ...]
    image_sizes: tuple[tuple[ImageSize, ...], ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def num_supervised(self) -> int:
        return sum(self.supervised)


@dataclass(frozen=True)
class RowPacking:
    """How the samples of some steps are packed and dealt.

    Attributes:
        rows: the row of most tokens and the row of most supervised tokens.
        rows_per_rank: rows of each rank in a step: fewest, mean and most.
        useful_share: work of all ranks over that of the busiest, times their number, averaged over steps.
        most_tokens: tokens that a rank has in a step, at most; no row can be longer.
        most_entries: entries along the first axis of the pixels that a rank has in a step, at most: images, or tiles.
    """

    rows: tuple[Row, ...]
    rows_per_rank: tuple[int, float, int]
    useful_share: float
    most_tokens: int
    most_entries: int


def seat_steps(
    steps: Sequence[StepSamples], tokens_per_row: int, num_ranks: int, null_image: NullImage | None
) -> RowPacking:
    """Seat steps as the stream does.

    Args:
        null_image: for rows without images, where ranks must all see one.
    """
    cost, counts, useful = CostModel(), [], []
    longest = dearest = Row((), (), ())
    most_tokens = most_entries = 0
    for step in steps:
        columns = (step.lengths, step.num_images, step.supervised, step.entries())
        tokens, images, labeled, entries = (column.tolist() for column in columns)
        ranks = balance_and_pack(tokens, images, tokens_per_row, num_ranks, cost)
        counts.append(len(ranks[0]))
        costs = [cost.of(*sizes) for sizes in zip(tokens, images, strict=True)]
        loads = [sum(costs[at] for row in rows for at in row) for rows in ranks]
        useful.append(sum(loads) / len(loads) / max(loads))
        for rows in ranks:
            sizes = [sum(tokens[at] for at in row) for row in rows]
            most_tokens = max(most_tokens, sum(sizes))
            most_entries = max(most_entries, sum(entries[at] for row in rows for at in row))
            for seats, size in zip(rows, sizes, strict=True):
                # No row is written out that is smaller than those found: there are hundreds of thousands.
                num_supervised = sum(labeled[at] for at in seats)
                if null_image is not None and not any(images[at] for at in seats):
                    size += null_image.num_tokens
                if (size, num_supervised) > (longest.num_tokens, longest.num_supervised):
                    longest = _row_of(seats, step, null_image)
                if (num_supervised, size) > (dearest.num_supervised, dearest.num_tokens):
                    dearest = _row_of(seats, step, null_image)
    rows_per_rank = (min(counts), sum(counts) / len(counts), max(counts))
    kinds = tuple(dict.fromkeys((longest, dearest)))
    return RowPacking(kinds, rows_per_rank, sum(useful) / len(useful), most_tokens, most_entries)


def _row_of(seats: Sequence[int], step: StepSamples, null_image: NullImage | None) -> Row:
    columns = (step.lengths, step.num_images, step.supervised)
    lengths, num_images, supervised = (tuple(column[seats].tolist()) for column in columns)
    row = Row(lengths, num_images, supervised, step.sizes_of(seats))
    if null_image is None or any(num_images):
        return row
    sizes = row.image_sizes if null_image.size is None else (*row.image_sizes, (null_image.size,))
    return Row((*lengths, null_image.num_tokens), (*num_images, 1), (*supervised, 0), sizes)


def hollow_batch(row: Row, encoder: Encoder, fake: FakeTensorMode) -> Batch:
    """A row with real token numbers, labels and positions, and pixels that hold nothing."""
    examples = []
    filler = (encoder.image_token_id + 1) % 3
    all_sizes = row.image_sizes or ((),) * len(row.lengths)
    columns = zip(row.lengths, row.num_images, row.supervised, all_sizes, strict=True)
    for length, num_images, num_supervised, sizes in columns:
        tokens = np.full(length, filler)
        places = int(encoder.tokens_of_images(num_images, sizes).sum())
        opening = min(1, length - places)
        tokens[opening : opening + places] = encoder.image_token_id
        labeled = np.full(length, IGNORED)
        labeled[length - num_supervised :] = filler
        examples.append(Example(tokens, labeled, encoder.transform.no_pixels, 0, "", image_sizes=sizes))
    num_entries = sum(row.num_images)
    if row.image_sizes:
        num_entries = sum(encoder.transform.num_entries(size) for sizes in row.image_sizes for size in sizes)
    with fake:
        pixels = torch.empty(num_entries, *encoder.transform.no_pixels.shape[1:], dtype=torch.uint8)
    return replace(collate_row(encoder, examples, range(len(examples))), pixel_values=pixels)
