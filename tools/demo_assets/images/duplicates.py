"""Removal of pictures that stand twice, or nearly so in two splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tools.demo_assets.images.item import Item

# Mean absolute difference of 16 x 16 RGB thumbnails (of 255) under which two pictures of two splits count as the same.
NEAR = 1.5


def drop_duplicates(items: Sequence[Item], encoded: Sequence[bytes]) -> tuple[list[int], int, int]:
    """Indices kept, number of byte-identical pictures dropped, number of near-duplicates across splits dropped.

    Test is kept before val and val before train; only the later one of a pair is dropped.
    """
    order = sorted(range(len(items)), key=lambda index: ("test", "val", "train").index(items[index].split))
    seen: set[bytes] = set()
    unique = []
    for index in order:
        if encoded[index] not in seen:
            seen.add(encoded[index])
            unique.append(index)
    kept, near = [], 0
    for domain in sorted({item.domain for item in items}):
        mine = [index for index in unique if items[index].domain == domain]
        thumbs = np.stack([_thumbnail(items[index].image) for index in mine])
        splits = np.array([items[index].split for index in mine])
        for place, index in enumerate(mine):
            earlier = np.flatnonzero(splits[:place] != splits[place])
            if len(earlier) and np.abs(thumbs[earlier] - thumbs[place]).mean(1).min() < NEAR:
                near += 1
            else:
                kept.append(index)
    return sorted(kept), len(order) - len(unique), near


def _thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BOX), np.float32).reshape(-1)
