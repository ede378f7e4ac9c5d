"""The packed rows that a run will have, from the lengths of its samples; and a row of that make without content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_moe.data.batch import Batch
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.mixture import EpochPlan
from llava_moe.data.pack import CostModel, balance_and_pack
from llava_moe.data.source_index import SourceIndex
from llava_moe.errors import UserError


@dataclass(frozen=True)
class Row:
    """The examples of a packed row: tokens (images expanded), images and supervised tokens of each."""

    lengths: tuple[int, ...]
    num_images: tuple[int, ...]
    supervised: tuple[int, ...]

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
        most_images: images that a rank has in a step, at most.
    """

    rows: tuple[Row, ...]
    rows_per_rank: tuple[int, float, int]
    useful_share: float
    most_tokens: int
    most_images: int


def supervised_of(plan: EpochPlan, indexes: Sequence[SourceIndex]) -> np.ndarray:
    """int32 [n], the supervised tokens of each sample of an epoch."""
    supervised = np.empty(len(plan), np.int32)
    for place, index in enumerate(indexes):
        mine = plan.source == place
        supervised[mine] = index.supervised[plan.entry[mine]]
    return supervised


def seat_steps(
    lengths: Sequence[np.ndarray],
    num_images: Sequence[np.ndarray],
    supervised: Sequence[np.ndarray],
    tokens_per_row: int,
    num_ranks: int,
    null_image_tokens: int | None,
) -> RowPacking:
    """Seat steps as the stream does.

    Args:
        lengths, num_images, supervised: the samples of each step.
        null_image_tokens: tokens of the example that a row without image gets, where ranks must all see one.
    """
    cost, counts, useful = CostModel(), [], []
    longest = dearest = Row((), (), ())
    most_tokens = most_images = 0
    for step in zip(lengths, num_images, supervised, strict=True):
        tokens, images, labeled = (values.tolist() for values in step)
        ranks = balance_and_pack(tokens, images, tokens_per_row, num_ranks, cost)
        counts.append(len(ranks[0]))
        costs = [cost.of(*sizes) for sizes in zip(tokens, images, strict=True)]
        loads = [sum(costs[at] for row in rows for at in row) for rows in ranks]
        useful.append(sum(loads) / len(loads) / max(loads))
        for rows in ranks:
            sizes = [sum(tokens[at] for at in row) for row in rows]
            most_tokens = max(most_tokens, sum(sizes))
            most_images = max(most_images, sum(images[at] for row in rows for at in row))
            for seats, size in zip(rows, sizes, strict=True):
                # No row is written out that is smaller than those found: there are hundreds of thousands.
                num_supervised = sum(labeled[at] for at in seats)
                if null_image_tokens is not None and not any(images[at] for at in seats):
                    size += null_image_tokens
                if (size, num_supervised) > (longest.num_tokens, longest.num_supervised):
                    longest = _row_of(seats, tokens, images, labeled, null_image_tokens)
                if (num_supervised, size) > (dearest.num_supervised, dearest.num_tokens):
                    dearest = _row_of(seats, tokens, images, labeled, null_image_tokens)
    rows_per_rank = (min(counts), sum(counts) / len(counts), max(counts))
    kinds = tuple(dict.fromkeys((longest, dearest)))
    return RowPacking(kinds, rows_per_rank, sum(useful) / len(useful), most_tokens, most_images)


def _row_of(
    seats: Sequence[int],
    tokens: Sequence[int],
    images: Sequence[int],
    labeled: Sequence[int],
    null_image_tokens: int | None,
) -> Row:
    row = Row(*(tuple(values[at] for at in seats) for values in (tokens, images, labeled)))
    if null_image_tokens is None or any(row.num_images):
        return row
    return Row((*row.lengths, null_image_tokens), (*row.num_images, 1), (*row.supervised, 0))


def refuse_unequal_images(encoder: Encoder) -> None:
    """Refuse a family whose rows no number of images describes.

    Raises:
        UserError: images take unequal numbers of tokens.
    """
    if not encoder.has_equal_images:
        raise UserError(
            "plan counts images, and those of this model take unequal numbers of tokens: measure a few steps instead "
            "(llava-moe train ... train.max_steps=20)"
        )


def hollow_batch(row: Row, encoder: Encoder, fake: FakeTensorMode) -> Batch:
    """A row with real token numbers, labels and positions, and pixels that hold nothing."""
    ids, labels, positions = [], [], []
    filler = (encoder.image_token_id + 1) % 3
    for length, num_images, num_supervised in zip(row.lengths, row.num_images, row.supervised, strict=True):
        tokens = np.full(length, filler)
        places = int(encoder.tokens_of_images(num_images).sum())
        opening = min(1, length - places)
        tokens[opening : opening + places] = encoder.image_token_id
        labeled = np.full(length, IGNORED)
        labeled[length - num_supervised :] = filler
        ids.append(tokens)
        labels.append(labeled)
        positions.append(np.arange(length))
    with fake:
        pixels = torch.empty(sum(row.num_images), *encoder.null_image.shape, dtype=torch.uint8)
    joined = [torch.from_numpy(np.concatenate(parts).astype(np.int64))[None] for parts in (ids, labels, positions)]
    return Batch(
        input_ids=joined[0],
        labels=joined[1],
        position_ids=joined[2],
        pixel_values=pixels,
        domains=torch.zeros_like(joined[0]),
        segment_lengths=row.lengths,
        is_real=torch.ones(len(row.lengths), dtype=torch.bool),
        keys=("",) * len(row.lengths),
        sample_positions=tuple(range(len(row.lengths))),
    )
