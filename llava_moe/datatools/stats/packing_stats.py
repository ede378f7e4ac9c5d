"""How samples fill rows: rows a step, packing efficiency, and what belongs to no sample, from the real seating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.data.batch import NULL_LENGTH
from llava_moe.data.pack import CostModel, balance_and_pack
from llava_moe.datatools.stats.token_counts import Taken

MOST_STEPS = 1000


@dataclass(frozen=True)
class PackingRequest:
    """What the seating is asked for.

    Attributes:
        null_image_tokens: tokens of the segment added to a row without an image where every rank must run the vision
            tower in every row (DeepSpeed); None where it is not needed.
    """

    samples_per_step: int
    tokens_per_row: int
    num_ranks: int
    null_image_tokens: int | None


@dataclass(frozen=True)
class PackingStats:
    """Seating of the steps looked at.

    Attributes:
        num_steps: steps of the epoch; ``num_seated`` of them, evenly spaced, were seated.
        rows_mean, rows_min, rows_max: rows (micro-batches) of a rank in a step.
        packing_efficiency: sample tokens / (rows that hold samples * tokens_per_row).
        padding_share: tokens of null segments and null rows / all tokens computed.
        balance: cost of all ranks / (ranks * cost of the dearest rank), by the step, averaged.
    """

    num_steps: int
    num_seated: int
    rows_mean: float
    rows_min: int
    rows_max: int
    packing_efficiency: float
    padding_share: float
    balance: float


def count_packing(taken: Taken, seats: PackingRequest, most_steps: int = MOST_STEPS) -> PackingStats:
    """Seat the steps of an epoch, or ``most_steps`` of them evenly spaced."""
    num_steps = -(-len(taken) // seats.samples_per_step)
    chosen = np.unique(np.linspace(0, num_steps - 1, min(num_steps, most_steps)).round().astype(int)).tolist()
    rows_of, sample_tokens, filled_rows, null_tokens, balances = [], 0, 0, 0, []
    for step in chosen:
        part = slice(step * seats.samples_per_step, (step + 1) * seats.samples_per_step)
        lengths, num_images = taken.length[part].tolist(), taken.num_images[part].tolist()
        ranks = balance_and_pack(lengths, num_images, seats.tokens_per_row, seats.num_ranks)
        rows_of.append(len(ranks[0]))
        sample_tokens += sum(lengths)
        filled_rows += sum(bool(row) for rows in ranks for row in rows)
        null_tokens += sum(_null_tokens(row, num_images, seats.null_image_tokens) for rows in ranks for row in rows)
        balances.append(_balance(ranks, lengths, num_images))
    return PackingStats(
        num_steps=num_steps,
        num_seated=len(chosen),
        rows_mean=float(np.mean(rows_of)),
        rows_min=min(rows_of),
        rows_max=max(rows_of),
        packing_efficiency=sample_tokens / (filled_rows * seats.tokens_per_row),
        padding_share=null_tokens / (sample_tokens + null_tokens),
        balance=float(np.mean(balances)),
    )


def _null_tokens(row: Sequence[int], num_images: Sequence[int], null_image_tokens: int | None) -> int:
    """Tokens that ``collate`` adds to a row."""
    if null_image_tokens is not None:
        return 0 if any(num_images[position] for position in row) else null_image_tokens
    return 0 if row else NULL_LENGTH


def _balance(ranks: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int], num_images: Sequence[int]) -> float:
    cost = CostModel()
    loads = [sum(cost.of(lengths[at], num_images[at]) for row in rows for at in row) for rows in ranks]
    return sum(loads) / (len(loads) * max(loads))
