"""Who computes what: the samples of one optimizer step, dealt to ranks by cost and packed into rows.

The step's set of samples is never changed, so training is the same however they are seated.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CostModel:
    """What a sample costs, in the time of one token's linear layers.

    ``cost = l + attention * l^2 + image * num_images`` with l its tokens, images expanded. The defaults are FLOPs of a
    7B Llama (4096 wide, 32 layers, 6.6e9 weights in linears; forward and input gradients: 4 a weight and token; causal
    attention 7 * 4096 * 32 a pair) and of a frozen CLIP-L/14 at 336 pixels: attention = 9.2e5 / 2.64e10, image = 13.
    """

    attention: float = 3.5e-5
    image: float = 13.0

    def of(self, length: int, num_images: int) -> float:
        """The cost of one sample."""
        return length + self.attention * length * length + self.image * num_images


def balance_and_pack(
    lengths: Sequence[int],
    num_images: Sequence[int],
    tokens_per_row: int,
    num_ranks: int,
    cost: CostModel = CostModel(),
) -> list[list[list[int]]]:
    """Deal the samples of a step to ranks, and each rank's samples to rows.

    To ranks: longest processing time first, each sample to the rank with the least cost so far. To rows: best fit
    decreasing, each sample to the fullest row that it fits. Every rank gets as many rows as the one that needs most,
    null rows being empty; rows are ordered by falling cost, so that ranks do like work at the same time.

    Args:
        lengths: tokens of each sample; ``num_images``: its images.
        tokens_per_row: most tokens of a row.

    Returns:
        For each rank, for each row, the positions of its samples in the step, rising. Ties go to the lower position,
        rank and row, so the same input is always seated alike.

    Raises:
        ValueError: a sample is longer than a row, or there is no rank.
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be positive, got {num_ranks}")
    if len(lengths) != len(num_images):
        raise ValueError(f"{len(lengths)} lengths and {len(num_images)} image counts")
    longest = max(lengths, default=0)
    if longest > tokens_per_row:
        raise ValueError(f"a sample of {longest} tokens does not fit a row of {tokens_per_row}")
    costs = [cost.of(int(length), int(images)) for length, images in zip(lengths, num_images, strict=True)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    seated: list[list[int]] = [[] for _ in range(num_ranks)]
    for position in sorted(range(len(costs)), key=lambda at: (-costs[at], at)):
        load, rank = heapq.heappop(loads)
        seated[rank].append(position)
        heapq.heappush(loads, (load + costs[position], rank))
    ranks = [_fill_rows(positions, lengths, costs, tokens_per_row) for positions in seated]
    num_rows = max(1, *(len(rows) for rows in ranks))
    return [rows + [[] for _ in range(num_rows - len(rows))] for rows in ranks]


def _fill_rows(
    positions: Sequence[int], lengths: Sequence[int], costs: Sequence[float], tokens_per_row: int
) -> list[list[int]]:
    rows: list[list[int]] = []
    # (room left, row), rising: the first place at or after (length, 0) is the fullest row that fits.
    room: list[tuple[int, int]] = []
    for position in sorted(positions, key=lambda at: (-int(lengths[at]), at)):
        length = int(lengths[position])
        place = bisect_left(room, (length, 0))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = tokens_per_row, len(rows)
            rows.append([])
        rows[row].append(position)
        insort(room, (left - length, row))
    rows = [sorted(row) for row in rows]
    return sorted(rows, key=lambda row: (-sum(costs[position] for position in row), row))
