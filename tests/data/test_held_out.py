"""Held-out records: split by image over all sources, never by question, and by nothing but the images."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.data.held_out import image_groups, split_held_out, take
from llava_moe.data.records import Source
from llava_moe.data.source_index import SourceIndex
from llava_moe.errors import UserError


def index(images: list[list[int]], first_key: int = 0) -> SourceIndex:
    """A record for each list of image identities; its key's first eight bytes are its number from ``first_key``."""
    size = len(images)
    keys = np.zeros((size, 32), dtype=np.uint8)
    keys[:, :8] = (np.arange(size, dtype=np.uint64) + np.uint64(first_key)).reshape(-1, 1).view(np.uint8)
    return SourceIndex(
        rows=np.arange(size, dtype=np.int64) * 3,
        lengths=np.arange(size, dtype=np.int32) + 5,
        supervised=np.full(size, 2, dtype=np.int32),
        num_images=np.asarray([len(some) for some in images], dtype=np.int16),
        keys=keys,
        image_ids=np.asarray([image for some in images for image in some], dtype=np.uint64),
        num_records=size + 4,
        num_cut=1,
        bad=(),
    )


def sources(count: int) -> list[Source]:
    return [Source(f"s{number}", "general", "a.json") for number in range(count)]


def images_of(one: SourceIndex) -> list[set[int]]:
    ends = np.cumsum(one.num_images)
    return [set(one.image_ids[end - size : end].tolist()) for end, size in zip(ends, one.num_images, strict=True)]


def joined(records: list[set[int]]) -> list[int]:
    """The smallest image of each record's component, by joining sets until nothing changes."""
    while True:
        wider = [set().union(*(other for other in records if other & one)) for one in records]
        if wider == records:
            return [min(one) for one in records]
        records = wider


mixtures = st.lists(st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=12), min_size=1, max_size=3)


@given(mixtures)
def test_a_group_is_what_records_tie_together_over_all_sources(some: list[list[list[int]]]) -> None:
    indexes = [index(images, 1000 * (number + 1)) for number, images in enumerate(some)]
    records = [
        images or {1000 * (number + 1) + row}
        for number, one in enumerate(indexes)
        for row, images in enumerate(images_of(one))
    ]
    assert np.concatenate(image_groups(indexes)).tolist() == joined(records)


@given(mixtures, st.floats(0.05, 0.8))
def test_no_image_is_on_both_sides_and_no_record_is_lost(some: list[list[list[int]]], share: float) -> None:
    indexes = [index(images, 1000 * (number + 1)) for number, images in enumerate(some)]
    try:
        training, held = split_held_out(sources(len(indexes)), indexes, share)
    except UserError as refusal:
        assert "holds out none" in str(refusal) or "leaves nothing" in str(refusal)
        return
    assert not np.intersect1d(
        np.concatenate([one.image_ids for one in training]), np.concatenate([one.image_ids for one in held])
    ).size
    for whole, one, other in zip(indexes, training, held, strict=True):
        for name in ("rows", "lengths", "supervised", "num_images"):
            both = np.concatenate([getattr(one, name), getattr(other, name)])
            assert sorted(both.tolist()) == sorted(getattr(whole, name).tolist())
        by_row = dict(zip(whole.rows.tolist(), images_of(whole), strict=True))
        for part in (one, other):
            assert images_of(part) == [by_row[row] for row in part.rows.tolist()]
            assert np.array_equal(part.keys, whole.keys[part.rows // 3])
            assert (part.num_records, part.num_cut) == (whole.num_records, whole.num_cut)


def many(draw: np.random.Generator, size: int, pool: np.ndarray, share_of_pairs: float = 0.0) -> SourceIndex:
    num_images = np.where(draw.random(size) < share_of_pairs, 2, draw.random(size) > 0.06).astype(np.int16)
    return SourceIndex(
        rows=np.arange(size),
        lengths=np.full(size, 600, dtype=np.int32),
        supervised=np.full(size, 9, dtype=np.int32),
        num_images=num_images,
        keys=draw.integers(0, 256, (size, 32), dtype=np.uint8),
        image_ids=pool[draw.integers(0, len(pool), int(num_images.sum()))],
        num_records=size,
        num_cut=0,
        bad=(),
    )


def test_the_share_is_of_the_images_and_the_choice_stands_when_a_source_is_added() -> None:
    draw = np.random.default_rng(0)
    pools = [draw.integers(0, 2**63, 20_000, dtype=np.uint64) for _ in range(3)]
    indexes = [many(draw, 60_000, pool) for pool in pools]
    _, held = split_held_out(sources(2), indexes[:2], 0.1)
    for pool, one in zip(pools, held, strict=False):
        assert len(np.unique(one.image_ids)) / len(pool) == pytest.approx(0.1, abs=0.01)
    _, with_third = split_held_out(sources(3), indexes, 0.1)
    _, turned = split_held_out(sources(2), indexes[1::-1], 0.1)
    for one, other, last in zip(held, with_third, turned[::-1], strict=False):
        assert np.array_equal(one.rows, other.rows) and np.array_equal(one.rows, last.rows)
    _, more = split_held_out(sources(2), indexes[:2], 0.2)
    assert set(held[0].rows.tolist()) < set(more[0].rows.tolist())


def test_an_image_of_two_sources_is_held_out_of_both() -> None:
    draw = np.random.default_rng(1)
    pool = draw.integers(0, 2**63, 500, dtype=np.uint64)
    training, held = split_held_out(sources(2), [many(draw, 4000, pool), many(draw, 3000, pool, 0.01)], 0.3)
    assert all(len(one.rows) for one in (*training, *held))
    seen, kept = (set(np.concatenate([one.image_ids for one in side]).tolist()) for side in (training, held))
    assert not seen & kept and seen | kept == set(pool.tolist())


def test_a_share_of_nothing_holds_nothing_out() -> None:
    whole = index([[1], [], [2, 3]])
    (training,), (held,) = split_held_out(sources(1), [whole], 0.0)
    assert training.rows.tolist() == whole.rows.tolist() and not len(held.rows) and not len(held.image_ids)


@pytest.mark.parametrize(
    ("images", "share", "message"),
    [
        ([[7]] * 5, 0.01, "data.held_out=0.01 holds out none of 1 images: raise it"),
        ([[7]] * 5, 0.99999, "data.held_out=0.99999 leaves nothing of source 's0' to train on: its 5 records share"),
    ],
)
def test_a_split_that_is_none_is_refused(images: Any, share: float, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        split_held_out(sources(1), [index(images)], share)
    assert str(refusal.value).startswith(message)


def test_a_share_that_is_none_is_an_error() -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="share"):
            split_held_out(sources(1), [index([[1]])], share)


def test_a_chain_of_records_is_one_group_and_does_not_take_a_pass_a_link() -> None:
    size = 200_000
    draw = np.random.default_rng(2)
    chain = draw.permutation(size).astype(np.uint64)
    whole = many(draw, size - 1, chain)
    links = np.stack([chain[:-1], chain[1:]], axis=1).ravel()
    pairs = replace(whole, num_images=np.full(size - 1, 2, np.int16), image_ids=links)
    started = time.process_time()
    (groups,) = image_groups([pairs])
    assert not groups.any()
    assert time.process_time() - started < 20


def test_taking_records_takes_their_images() -> None:
    whole = index([[1], [], [2, 3], [4]])
    some = take(whole, np.asarray([False, True, True, False]))
    assert some.rows.tolist() == [3, 6] and some.image_ids.tolist() == [2, 3] and some.num_records == 8
