"""Copies by hash, against a reference in plain Python."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.datatools.check.duplicate_hashes import copies, join_images, mix, same_but_other

FEW = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.booleans()), max_size=30)


@given(FEW)
def test_copies_are_all_but_the_first_of_each(rows: list[tuple[int, int, bool]]) -> None:
    hashes = np.asarray([one for one, _, _ in rows], dtype=np.uint64)
    chosen = np.flatnonzero(np.asarray([is_chosen for *_, is_chosen in rows], dtype=bool))
    first: dict[int, int] = {}
    expected = []
    for row in chosen.tolist():
        if rows[row][0] in first:
            expected.append((row, first[rows[row][0]]))
        first.setdefault(rows[row][0], row)
    found, firsts = copies(hashes, chosen)
    assert list(zip(found.tolist(), firsts.tolist(), strict=True)) == expected


@given(FEW)
def test_rows_that_share_one_thing_and_not_the_other_are_found(rows: list[tuple[int, int, bool]]) -> None:
    same = np.asarray([one for one, _, _ in rows], dtype=np.uint64)
    other = np.asarray([one for _, one, _ in rows], dtype=np.uint64)
    chosen = [row for row, (*_, is_chosen) in enumerate(rows) if is_chosen]
    others = defaultdict(set)
    for row in chosen:
        others[rows[row][0]].add(rows[row][1])
    expected = [row for row in chosen if len(others[rows[row][0]]) > 1]
    assert same_but_other(same, other, np.asarray(chosen, dtype=np.int64)).tolist() == expected


@given(st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=1, max_size=12))
def test_records_are_the_same_exactly_where_their_images_are_in_order(images: list[list[int]]) -> None:
    rows = np.asarray([row for row, own in enumerate(images) for _ in own], dtype=np.int64)
    places = np.asarray([place for own in images for place in range(len(own))], dtype=np.int16)
    contents = np.asarray([content for own in images for content in own], dtype=np.uint64)
    joined = join_images(np.full(len(images), 7, dtype=np.uint64), rows, places, contents)
    for one in range(len(images)):
        for other in range(one):
            assert (joined[one] == joined[other]) == (images[one] == images[other])


def test_mixing_is_splitmix_and_knows_the_order() -> None:
    """The first outputs of splitmix64 from seed 0, as its authors' C code prints them."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    one, zero = np.asarray([1], dtype=np.uint64), np.asarray([0], dtype=np.uint64)
    assert int(mix(one, zero)[0]) == 0xE220A8397B1DCDAF
    assert int(mix(one, zero + golden)[0]) == 0x6E789E6AA1B965F4
    assert int(mix(one, zero)[0]) != int(mix(zero, one)[0])
