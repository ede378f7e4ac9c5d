"""A packed row: examples end to end, positions from 0 in each, null segments that train nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from llava_moe.data.batch import Batch, collate
from llava_moe.data.encode import Example

IMAGE, PAD = 9, 0


def example(length: int, domain: int, num_images: int = 0, is_hole: bool = False, seed: int = 0) -> Example:
    ids = np.arange(20, 20 + length)
    labels = np.where(np.arange(length) < 2, -100, ids)
    pixels = np.full((num_images, 3, 4, 4), seed, dtype=np.uint8)
    return Example(ids, np.full(length, -100) if is_hole else labels, pixels, domain, f"key{seed}", is_hole)


def test_a_row_is_its_segments_end_to_end() -> None:
    row = [example(4, 0, 1, seed=1), example(3, 2, seed=2), example(5, 1, 2, seed=3)]
    batch = collate(row, [5, 0, 3], None, PAD)
    assert batch.input_ids.tolist() == [[20, 21, 22, 23, 20, 21, 22, 20, 21, 22, 23, 24]]
    assert batch.labels.tolist() == [[-100, -100, 22, 23, -100, -100, 22, -100, -100, 22, 23, 24]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4]]
    assert batch.domains.tolist() == [[0] * 4 + [2] * 3 + [1] * 5]
    assert all(t.dtype == torch.int64 for t in (batch.input_ids, batch.labels, batch.position_ids, batch.domains))
    assert batch.pixel_values.dtype == torch.uint8 and batch.pixel_values[:, 0, 0, 0].tolist() == [1, 3, 3]
    assert batch.segment_lengths == (4, 3, 5) and batch.sample_positions == (5, 0, 3)
    assert batch.keys == ("key1", "key2", "key3") and batch.is_real.tolist() == [True] * 3
    assert (batch.supervised_tokens, batch.num_samples, batch.num_tokens) == (6, 3, 12)


def test_a_hole_keeps_its_key_and_counts_for_nothing() -> None:
    batch = collate([example(4, 0, seed=1), example(3, 2, is_hole=True, seed=2)], [0, 1], None, PAD)
    assert batch.domains.tolist() == [[0] * 4 + [-1] * 3]
    assert batch.is_real.tolist() == [True, False] and batch.keys == ("key1", "key2")
    assert (batch.supervised_tokens, batch.num_samples, batch.sample_positions) == (2, 1, (0, 1))


def check_null_segment(batch: Batch, null_image: np.ndarray) -> None:
    assert batch.input_ids[0, -5:].tolist() == [IMAGE] * 5 and batch.position_ids[0, -5:].tolist() == [0, 1, 2, 3, 4]
    assert batch.labels[0, -5:].tolist() == [-100] * 5 and batch.domains[0, -5:].tolist() == [-1] * 5
    assert torch.equal(batch.pixel_values, torch.from_numpy(null_image)[None])
    assert (batch.segment_lengths[-1], batch.keys[-1], batch.sample_positions[-1]) == (5, "", -1)
    assert not batch.is_real[-1]


def test_a_row_without_images_gets_the_null_image_behind_it() -> None:
    null_image = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    text_alone = collate([example(4, 0, seed=1)], [0], null_image, PAD, IMAGE, 5)
    check_null_segment(text_alone, null_image)
    assert text_alone.num_samples == 1 and text_alone.supervised_tokens == 2
    check_null_segment(collate([], [], null_image, PAD, IMAGE, 5), null_image)
    with_image = collate([example(4, 0, 1, seed=1)], [0], null_image, PAD, IMAGE, 5)
    assert with_image.segment_lengths == (4,) and with_image.pixel_values.unique().tolist() == [1]


def test_a_null_row_without_an_image_is_a_little_padding() -> None:
    batch = collate([], [], None, PAD)
    assert set(batch.input_ids[0].tolist()) == {PAD} and set(batch.labels[0].tolist()) == {-100}
    assert (batch.num_samples, batch.supervised_tokens, batch.keys, batch.sample_positions) == (0, 0, ("",), (-1,))
    assert len(batch.pixel_values) == 0 and batch.pixel_values.ndim == 4


def test_a_batch_is_pickled_and_moved_whole() -> None:
    batch = collate([example(4, 0, 1, seed=1)], [0], None, PAD)
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu"), batch.to("meta")):
        assert other.segment_lengths == batch.segment_lengths and other.keys == batch.keys
        assert other.pixel_values.shape == batch.pixel_values.shape and other.is_real.shape == batch.is_real.shape
    assert batch.to("meta").input_ids.device.type == batch.to("meta").is_real.device.type == "meta"


def test_missing_facts_are_refused() -> None:
    with pytest.raises(ValueError, match="1 examples and 2 positions"):
        collate([example(3, 0)], [0, 1], None, PAD)
    with pytest.raises(ValueError, match="image_token_id"):
        collate([], [], np.zeros((3, 4, 4), dtype=np.uint8), PAD)


def test_positions_with_axes_in_front_have_them_in_front_of_the_batch_axis_too() -> None:
    def by_axis(input_ids_t: np.ndarray, image_sizes: object) -> np.ndarray:
        return np.stack([np.arange(len(input_ids_t)), np.zeros(len(input_ids_t))])

    batch = collate([example(3, 0), example(2, 0)], [0, 1], None, PAD, position_ids=by_axis)
    assert batch.position_ids.tolist() == [[[0, 1, 2, 0, 1]], [[0, 0, 0, 0, 0]]]


def test_images_of_unequal_tokens_are_counted_by_their_sizes_not_by_their_pixels() -> None:
    wide = replace(example(4, 0, 3), image_sizes=((30, 10),))
    tall = replace(example(3, 0, 2), image_sizes=((10, 20),))
    batch = collate([wide, tall], [0, 1], None, PAD)
    assert batch.pixel_values.shape == (5, 3, 4, 4)
    assert (batch.num_images, batch.image_sizes) == (2, ((30, 10), (10, 20)))
    black = np.zeros((2, 3, 4, 4), dtype=np.uint8)
    null = collate([], [], black, PAD, IMAGE, 6, null_image_size=(10, 20))
    assert (null.segment_lengths, null.num_images, null.pixel_values.shape) == ((6,), 1, (2, 3, 4, 4))
