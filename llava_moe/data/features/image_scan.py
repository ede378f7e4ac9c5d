"""Worker processes that look at records' images: those that are known are not decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from torch.utils.data import Dataset

from llava_moe.data.conversation import BadRecord, ImageRef
from llava_moe.data.encode import Encoder
from llava_moe.data.features.image_key import image_key
from llava_moe.data.features.store import Catalog, Seen
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.transform import read_image
from llava_moe.data.records import Records, Source

BLOCK = 32
"""Records that are looked at together."""
_MOST_KEPT = 1 << 17


@dataclass(frozen=True)
class Wanted:
    """Records whose images are wanted: n of them, sorted by (place of their source, row).

    Attributes:
        places, rows: int64 [n].
        num_images: int64 [n], the most that an example has of a record's images.
        num_different: about how many images that are.
    """

    places: np.ndarray
    rows: np.ndarray
    num_images: np.ndarray
    num_different: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Looked:
    """What a block of records holds.

    Attributes:
        images: of each record its images' keys and what they became, or why one cannot be opened.
        pixels: uint8 [3, H, W] of what has no features yet, by SHA-256.
    """

    images: tuple[tuple[tuple[bytes, Seen], ...] | BadRecord, ...]
    pixels: dict[bytes, np.ndarray]


@dataclass
class ImageScan(Dataset[Looked]):
    """Block number to what its records hold; in a worker process, what it has seen it need not decode again."""

    sources: Sequence[Source]
    records: Sequence[Records]
    encoder: Encoder
    wanted: Wanted
    catalog: Catalog
    _keys: dict[tuple[ImageRef, str | None, ImageReading], bytes] = field(default_factory=dict, repr=False)
    _seen: dict[bytes, Seen] = field(default_factory=dict, repr=False)
    _sent: set[bytes] = field(default_factory=set, repr=False)

    @property
    def num_blocks(self) -> int:
        return -(-len(self.wanted) // BLOCK)

    def __getitem__(self, block: int) -> Looked:
        for memory in (self._keys, self._seen):
            if len(memory) > _MOST_KEPT:
                memory.clear()
        images: list[tuple[tuple[bytes, Seen], ...] | BadRecord] = []
        pixels: dict[bytes, np.ndarray] = {}
        for at in range(block * BLOCK, min(len(self.wanted), (block + 1) * BLOCK)):
            try:
                images.append(self._look(at, pixels))
            except BadRecord as fault:
                images.append(fault)
        return Looked(tuple(images), pixels)

    def _look(self, at: int, pixels: dict[bytes, np.ndarray]) -> tuple[tuple[bytes, Seen], ...]:
        place, row = int(self.wanted.places[at]), int(self.wanted.rows[at])
        records = self.records[place]
        reading = replace(self.encoder.reading, value_range=self.sources[place].value_range)
        refs = records[row].images[: int(self.wanted.num_images[at])]
        return tuple(self._look_at(ref, records.image_root, reading, pixels) for ref in refs)

    def _look_at(
        self, ref: ImageRef, root: str | None, reading: ImageReading, pixels: dict[bytes, np.ndarray]
    ) -> tuple[bytes, Seen]:
        encoder = self.encoder
        key = self._keys.get((ref, root, reading)) if isinstance(ref, str) else None
        if key is None:
            key = image_key(ref, root, encoder.transform, reading)
            if isinstance(ref, str):
                self._keys[ref, root, reading] = key
        seen = self._seen.get(key) or self.catalog.seen(key)
        if seen is None:
            opened = read_image(ref, root, encoder.max_pixels, reading=reading)
            # Features are kept of images that have one entry each.
            pixels_3HW = encoder.transform.pixels_of(opened.image)[0]
            dark = None if opened.dark is None else (opened.dark.lowest, opened.dark.highest)
            seen = Seen(sha256(pixels_3HW.tobytes()).digest(), dark)
            if seen.pixels not in self._sent and not self.catalog.holds(seen.pixels):
                pixels[seen.pixels] = pixels_3HW
                self._sent.add(seen.pixels)
        self._seen[key] = seen
        return key, seen
