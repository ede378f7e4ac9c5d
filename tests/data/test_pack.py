"""Seating a step: everybody once, rows within bounds, ranks level; and how much of the ranks' time is useful."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.data.pack import CostModel, balance_and_pack

COST = CostModel()


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[int], list[int], int, int]:
    row = draw(st.integers(1, 3000))
    samples = draw(st.lists(st.tuples(st.integers(1, row), st.integers(0, 3)), max_size=60))
    lengths, images = [length for length, _ in samples], [number for _, number in samples]
    return lengths, images, row, draw(st.integers(1, 9))


@given(steps())
def test_everybody_is_seated_once_and_ranks_have_equally_many_rows(step: tuple[list[int], list[int], int, int]) -> None:
    lengths, images, row, num_ranks = step
    ranks = balance_and_pack(lengths, images, row, num_ranks)
    assert len(ranks) == num_ranks and len({len(rows) for rows in ranks}) == 1 and ranks[0]
    seated = [position for rows in ranks for one in rows for position in one]
    assert sorted(seated) == list(range(len(lengths)))
    assert all(sum(lengths[position] for position in one) <= row for rows in ranks for one in rows)
    assert ranks == balance_and_pack(lengths, images, row, num_ranks)
    assert all(one == sorted(one) for rows in ranks for one in rows)
    most_rows = max(sum(1 for one in rows if one) for rows in ranks)
    assert len(ranks[0]) == max(1, most_rows), "nobody is given a row that no rank needs"


@given(steps())
def test_no_rank_is_more_than_one_sample_above_the_least_loaded(step: tuple[list[int], list[int], int, int]) -> None:
    lengths, images, row, num_ranks = step
    costs = [COST.of(length, number) for length, number in zip(lengths, images, strict=True)]
    loads = [
        sum(costs[position] for one in rows for position in one)
        for rows in balance_and_pack(lengths, images, row, num_ranks)
    ]
    assert max(loads) - min(loads) <= max(costs, default=0) + 1e-6


def seat_plainly(
    lengths: list[int], num_images: list[int], tokens_per_row: int, num_ranks: int
) -> list[list[list[int]]]:
    """The definition: each sample to the least loaded rank, then to the fullest row that it fits, looking at all."""
    costs = [COST.of(length, images) for length, images in zip(lengths, num_images, strict=True)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    ranks: list[list[list[int]]] = []
    seated: list[list[int]] = [[] for _ in range(num_ranks)]
    for position in sorted(range(len(costs)), key=lambda at: (-costs[at], at)):
        load, rank = heapq.heappop(loads)
        seated[rank].append(position)
        heapq.heappush(loads, (load + costs[position], rank))
    for positions in seated:
        rows: list[list[int]] = []
        room: list[int] = []
        for position in sorted(positions, key=lambda at: (-lengths[at], at)):
            fitting = [row for row in range(len(rows)) if room[row] >= lengths[position]]
            row = min(fitting, key=lambda at: (room[at], at)) if fitting else len(rows)
            if row == len(rows):
                rows.append([])
                room.append(tokens_per_row)
            rows[row].append(position)
            room[row] -= lengths[position]
        rows = [sorted(row) for row in rows]
        ranks.append(sorted(rows, key=lambda row: (-sum(costs[position] for position in row), row)))
    most = max(1, *(len(rows) for rows in ranks))
    return [rows + [[] for _ in range(most - len(rows))] for rows in ranks]


@given(steps())
def test_everybody_sits_where_the_definition_says(step: tuple[list[int], list[int], int, int]) -> None:
    assert balance_and_pack(*step) == seat_plainly(*step)


def test_seating_many_samples_does_not_look_at_every_row_for_each() -> None:
    samples = papers_mix(random.Random(1), 8192)
    lengths, images = [length for length, _ in samples], [number for _, number in samples]

    def seconds(seat: Callable[..., object]) -> float:
        started = time.process_time()
        seat(lengths, images, 2048, 1)
        return time.process_time() - started

    # About ten times as fast; looking at all rows would make it one.
    assert 3 * min(seconds(balance_and_pack) for _ in range(5)) < seconds(seat_plainly)


@given(steps())
def test_rows_are_not_wasted(step: tuple[list[int], list[int], int, int]) -> None:
    lengths, images, row, num_ranks = step
    for rows in balance_and_pack(lengths, images, row, num_ranks):
        fills = sorted(sum(lengths[position] for position in one) for one in rows if one)
        assert len(fills) < 2 or fills[0] + fills[1] > row, "two rows that fit one were not joined"


def test_rows_are_best_fit_and_ordered_by_cost() -> None:
    assert balance_and_pack([5, 7, 3, 6, 4], [0] * 5, 10, 1) == [[[1, 2], [3, 4], [0]]]


def test_a_rank_without_samples_gets_null_rows() -> None:
    assert balance_and_pack([4, 4, 9], [0, 0, 0], 10, 4) == [[[2]], [[0]], [[1]], [[]]]


def test_a_sample_longer_than_a_row_and_no_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="a sample of 11 tokens does not fit a row of 10"):
        balance_and_pack([3, 11], [0, 0], 10, 2)
    with pytest.raises(ValueError, match="num_ranks"):
        balance_and_pack([3], [0], 10, 0)


def papers_mix(draw: random.Random, count: int) -> list[tuple[int, int]]:
    """(length, images): 94 % image samples, 576 tokens and a lognormal text of mean 200; 6 % text alone of mean 900."""
    samples = []
    for _ in range(count):
        if draw.random() < 0.06:
            samples.append((min(2048, max(60, int(draw.lognormvariate(math.log(900) - 0.32, 0.8)))), 0))
        else:
            samples.append((576 + min(1400, max(40, int(draw.lognormvariate(math.log(200) - 0.245, 0.7)))), 1))
    return samples


@pytest.mark.parametrize("tokens_per_row", [2048, 4096, 16_384])
def test_eight_ranks_of_sixteen_samples_spend_97_percent_of_their_time_usefully(tokens_per_row: int) -> None:
    draw = random.Random(0)
    useful = spent = dealt = 0.0
    for _ in range(60):
        samples = papers_mix(draw, 8 * 16)
        lengths, images = [length for length, _ in samples], [number for _, number in samples]
        costs = [COST.of(*sample) for sample in samples]

        def slowest(ranks: list[list[list[int]]], costs: list[float] = costs) -> float:
            return max(sum(costs[position] for row in rows for position in row) for rows in ranks)

        useful += sum(costs)
        spent += 8 * slowest(balance_and_pack(lengths, images, tokens_per_row, 8))
        dealt += 8 * slowest([[list(range(rank * 16, rank * 16 + 16))] for rank in range(8)])
    assert useful / spent >= 0.97
    assert useful / dealt < 0.93, "sixteen at random to each rank would not do"
