"""Lengths: quantiles by their definition, bins that hold everything, a line of blocks that hides nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.datatools.stats.lengths import NUM_BINS, bin_width_for, sparkline, summarize

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=60)


@given(LENGTHS)
def test_a_quantile_is_the_least_length_that_its_share_does_not_exceed(lengths: list[int]) -> None:
    summary = summarize(np.asarray(lengths), bin_width_for(max(lengths)))
    assert summary is not None
    for share, found in ((50, summary.median), (90, summary.p90), (99, summary.p99)):
        fitting = [
            one for one in sorted(lengths) if 100 * sum(other <= one for other in lengths) >= share * len(lengths)
        ]
        assert found == fitting[0]
    assert summary.max == max(lengths) and summary.mean == pytest.approx(sum(lengths) / len(lengths))


@given(LENGTHS)
def test_every_sample_is_in_its_bin(lengths: list[int]) -> None:
    width = bin_width_for(max(lengths))
    summary = summarize(np.asarray(lengths), width)
    assert summary is not None and len(summary.histogram) == NUM_BINS
    expected = [sum(place * width <= one < (place + 1) * width for one in lengths) for place in range(NUM_BINS)]
    assert list(summary.histogram) == expected and sum(expected) == len(lengths)


def test_a_bin_is_a_round_number_of_tokens() -> None:
    assert [bin_width_for(longest) for longest in (1, 15, 16, 186, 2047, 2048, 4096)] == [1, 1, 2, 20, 200, 200, 400]


def test_a_bin_that_holds_anything_shows() -> None:
    assert sparkline((0, 1, 1000, 500, 0)) == " ▁█▄ "
    assert sparkline((0, 0)) == "  "


def test_nothing_has_no_lengths() -> None:
    assert summarize(np.asarray([], dtype=np.int32), 10) is None
