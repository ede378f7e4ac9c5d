"""Features of all images of a run, computed once each before its first step; and the table that steps read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch

from llava_moe.data.conversation import BadRecord
from llava_moe.data.features.image_scan import BLOCK, ImageScan
from llava_moe.data.features.store import FeatureStore, Seen
from llava_moe.data.features.table import FeatureTable, RowFeatures
from llava_moe.data.ordered_prefetch import prefetch_in_order

Compute = Callable[[np.ndarray], torch.Tensor]
"""Pixels uint8 [3, H, W] to features [T, W]."""


@dataclass(frozen=True)
class Filled:
    """What was done.

    Attributes:
        num_images: different ones by the pixels that the tower sees; ``num_computed`` of them were new.
    """

    table: FeatureTable
    num_images: int
    num_computed: int


def fill(
    looks: ImageScan,
    store: FeatureStore,
    compute: Compute,
    num_workers: int = 0,
    null_image: np.ndarray | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Filled:
    """Look at every wanted record, and compute what is missing.

    Each image goes through the tower alone, so that its features depend on nothing else: not on which images share a
    batch, nor on where a run was stopped.

    Args:
        null_image: uint8 [3, H, W] of rows that hold no image.
        told: called with (records done, records in all).

    Raises:
        UserError: no room for them, in memory or on the disk.
    """
    computed: set[bytes] = set()
    images: list[tuple[Seen, ...] | BadRecord] = []

    def keep(pixels: bytes, pixels_3HW: np.ndarray) -> None:
        # Two workers may have met it at the same time.
        if pixels not in computed:
            store.add(pixels, compute(pixels_3HW))
            computed.add(pixels)

    null = None if null_image is None else sha256(null_image.tobytes()).digest()
    try:
        if null is not None and null_image is not None and not store.holds(null):
            keep(null, null_image)
        with closing(prefetch_in_order(looks, range(looks.num_blocks), num_workers)) as found:
            for number, looked in enumerate(found, 1):
                for pixels, pixels_3HW in looked.pixels.items():
                    keep(pixels, pixels_3HW)
                for one in looked.images:
                    images.append(one if isinstance(one, BadRecord) else tuple(seen for _, seen in one))
                    for key, seen in () if isinstance(one, BadRecord) else one:
                        store.name(key, seen)
                told(min(number * BLOCK, len(looks.wanted)), len(looks.wanted))
    finally:
        # A run that is stopped here has computed what it has.
        store.flush()
    rows = [one if isinstance(one, BadRecord) else _row(one, store) for one in images]
    records = zip(looks.wanted.places.tolist(), looks.wanted.rows.tolist(), strict=True)
    table = FeatureTable.of(records, rows, None if null is None else store.slot(null))
    different = {slot for row in rows if isinstance(row, RowFeatures) for slot in row.slots}
    return Filled(table, len(different), len(computed))


def _row(images: tuple[Seen, ...], store: FeatureStore) -> RowFeatures:
    dark = tuple((number, seen.dark) for number, seen in enumerate(images) if seen.dark is not None)
    return RowFeatures(tuple(store.slot(seen.pixels) for seen in images), dark)
