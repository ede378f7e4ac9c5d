"""Which split an item belongs to: by a hash of its key, or by contiguous blocks of a volume or a picture.

Neighbouring slices and overlapping crops look alike, so these are never dealt at random: a whole block is held out
and a gap on both of its sides is left unused.
"""

from __future__ import annotations

import hashlib

import numpy as np

TEST_SHARE = 0.16
VAL_SHARE = 0.08


def fraction(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone (the same on every machine)."""
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def generator(*parts: object) -> np.random.Generator:
    """A random generator seeded by the parts alone, so that adding an item changes no other item."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big"))


def split_of_key(*parts: object) -> str:
    """Train, val or test (76/8/16) by the hash of the key."""
    place = fraction("split", *parts)
    return "test" if place < TEST_SHARE else "val" if place < TEST_SHARE + VAL_SHARE else "train"


def split_of_place(place: float, gap: float, blocks: tuple[tuple[float, float, str], ...]) -> str | None:
    """Split by position along an axis: inside a block it is the block's, within `gap` of one it is None."""
    near = False
    for start, stop, name in blocks:
        if start <= place < stop:
            return name
        near = near or start - gap <= place < stop + gap
    return None if near else "train"
