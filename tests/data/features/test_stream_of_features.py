"""A stream of kept features: the same steps, with slots where pixels were, whatever the ranks and where it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_moe.data.features.fill import Filled, fill
from llava_moe.data.features.image_scan import ImageScan, Wanted
from llava_moe.data.features.memory import MemoryFeatures
from llava_moe.data.features.shape import FeatureShape
from llava_moe.data.features.wanted import everyones, num_image_uses, wanted_records
from llava_moe.data.stream import Step, StepStream
from tests.data.test_stream import make_stream, same_batch

__all__ = ["make_stream"]

SHAPE = FeatureShape(1, 3 * 8 * 8, torch.float32)
"""Features that are the pixels themselves: which are which can be seen."""


def as_features(pixels_3HW: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels_3HW.reshape(1, -1)).float()


def filled(stream: StepStream, wanted: Wanted) -> tuple[MemoryFeatures, Filled]:
    store = MemoryFeatures(SHAPE, room=10**9)
    looks = ImageScan(stream.mixture.sources, stream.records, stream.encoder, wanted, store)
    return store, fill(looks, store, as_features, stream.num_workers, stream.null_image)


def assert_same_steps(plain: Sequence[Step], fed: Sequence[Step], store: MemoryFeatures) -> None:
    assert len(plain) == len(fed)
    for one, other in zip(plain, fed, strict=True):
        assert (one.keys, one.bad, one.dark, one.index) == (other.keys, other.bad, other.dark, other.index)
        for batch, slots in zip(one.batches, other.batches, strict=True):
            assert not len(slots.pixel_values) and batch.num_images == slots.num_images == len(slots.image_slots)
            pixels = store.read(slots.image_slots).reshape(-1, 3, 8, 8).to(torch.uint8)
            assert pixels.equal(batch.pixel_values.reshape(-1, 3, 8, 8))
            assert same_batch(replace(slots, pixel_values=batch.pixel_values, image_slots=()), batch)


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_slots_stand_for_the_pixels_of_the_same_steps(
    make_stream: Callable[..., StepStream], rank: int, world: int
) -> None:
    null = None if world == 1 else np.full((3, 8, 8), 7, dtype=np.uint8)
    stream = make_stream(rank=rank, world=world, null_image=null)
    store, found = filled(stream, wanted_records(stream, 18))
    fed = replace(stream, features=found.table)
    for epoch in range(3):
        assert_same_steps(list(stream.iterate(epoch)), list(fed.iterate(epoch)), store)


def test_a_run_that_goes_on_wants_no_more_than_it_has_yet_to_read(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    wanted = wanted_records(stream, 3, epoch=1, epoch_step=4)
    read = [*list(stream.iterate(1, 4)), *list(stream.iterate(2))[:1]]
    assert len(read) == 3
    names = {key for step in read for batch in step.batches if batch.num_images for key in batch.keys}
    assert 0 < len(wanted) < len(names) + 1 < len(wanted_records(stream, 18))
    store, found = filled(stream, wanted)
    fed = replace(stream, features=found.table)
    assert_same_steps(read, [*fed.iterate(1, 4), next(fed.iterate(2))], store)
    with pytest.raises(KeyError):
        list(fed.iterate(0))


def test_each_image_is_computed_once_and_ranks_share_all_of_them_out(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    wanted = wanted_records(stream, 6)
    _, found = filled(stream, wanted)
    # Both sources tell of some of the images; which are one file is not known before they are read.
    assert found.num_computed == found.num_images == 11 <= wanted.num_different == 16
    assert num_image_uses(stream, 6) == pytest.approx(36 * (23 * 15 / 23 + 12) / 35, abs=1)
    parts = [everyones(wanted, rank, 3) for rank in range(3)]
    pairs = [list(zip(part.places.tolist(), part.rows.tolist(), strict=True)) for part in parts]
    shared = [pair for one in pairs for pair in one]
    assert sorted(shared) == list(zip(wanted.places.tolist(), wanted.rows.tolist(), strict=True))
    assert max(map(len, pairs)) - min(map(len, pairs)) <= 1
    ranks = [wanted_records(make_stream(rank=rank, world=3), 6) for rank in range(3)]
    own = {pair for one in ranks for pair in zip(one.places.tolist(), one.rows.tolist(), strict=True)}
    assert own == set(shared)


def test_workers_find_the_same(make_stream: Callable[..., StepStream], image_folder: Path) -> None:
    (image_folder / "4.jpg").write_bytes(b"no image")
    (image_folder / "7.jpg").unlink()
    alone, several = make_stream(), make_stream(num_workers=2)
    store, found = filled(alone, wanted_records(alone, 12))
    other_store, other = filled(several, wanted_records(several, 12))
    assert found.num_images == other.num_images == 9 and found.table.faults == other.table.faults
    for stream, table, kept in ((alone, found.table, store), (several, other.table, other_store)):
        assert_same_steps(list(alone.iterate(0)), list(replace(stream, features=table).iterate(0)), kept)
