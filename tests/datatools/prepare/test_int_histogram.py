"""Counts of whole numbers, added up and written."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from llava_moe.datatools.prepare.int_histogram import Spread

NUMBERS = st.lists(st.integers(0, 1 << 40))


def spread(values: list[int]) -> Spread:
    told = Spread()
    for value in values:
        told.add(value)
    return told


@given(NUMBERS)
def test_a_spread_is_what_its_numbers_say(values: list[int]) -> None:
    told = spread(values)
    assert (told.count, told.total) == (len(values), sum(values))
    assert (told.smallest, told.largest) == (min(values, default=None), max(values, default=None))
    assert told.mean == (sum(values) / len(values) if values else None)
    for edge, count in told.histogram.items():
        lower = edge // 2 if edge > 1 else edge - 1
        assert count == sum(lower < value <= edge for value in values)
    assert told.histogram.total() == len(values)


@given(NUMBERS, NUMBERS)
def test_halves_add_up_and_json_gives_them_back(first: list[int], second: list[int]) -> None:
    merged = spread(first)
    merged.merge(spread(second))
    assert merged == spread(first + second)
    assert Spread.from_dict(json.loads(json.dumps(merged.as_dict()))) == merged
