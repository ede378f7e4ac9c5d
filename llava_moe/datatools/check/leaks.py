"""Whether a record's image, and its question with it, stand in an evaluation set.

An image is the same if its encoded bytes are, or its pixels: sets are often stored again in another container.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llava_moe.datatools.check.eval_sets import AskedSet
from llava_moe.datatools.check.pictures import Picture


class Leaks:
    """The images and pairs of image and question of evaluation sets, by hash.

    Args:
        pictures: what was found at the images of the sets, all sets' one behind the other.
    """

    def __init__(self, asked: Sequence[AskedSet], pictures: Sequence[Picture]) -> None:
        self.images: dict[int, str] = {}
        self.pairs: dict[tuple[int, int], str] = {}
        start = 0
        for one in asked:
            for item in one.items:
                name = f"{one.name}, question {item.name}"
                opened = [pictures[start + place] for place in item.pictures]
                for image in {known for picture in opened for known in (picture.content, picture.pixels) if known}:
                    self.images.setdefault(image, name)
                    for question in item.questions:
                        self.pairs.setdefault((image, question), name)
            start += len(one.pictures)
        self._known = np.asarray(sorted(self.images), dtype=np.uint64)

    def find(
        self,
        rows_m: np.ndarray,
        contents_m: np.ndarray,
        pixels_m: np.ndarray,
        asked_rows: np.ndarray,
        asked: np.ndarray,
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Rows whose image and question stand in a set, and rows of which the image alone does, each with where."""
        is_known = np.isin(contents_m, self._known) | np.isin(pixels_m, self._known)
        held: dict[int, list[int]] = {}
        alone: dict[int, str] = {}
        for row, content, pixels in zip(
            rows_m[is_known].tolist(), contents_m[is_known].tolist(), pixels_m[is_known].tolist(), strict=True
        ):
            held.setdefault(row, []).extend((content, pixels))
            alone.setdefault(row, self.images.get(content) or self.images[pixels])
        both: dict[int, str] = {}
        is_held = np.isin(asked_rows, np.asarray(list(held), dtype=np.int64))
        for row, question in zip(asked_rows[is_held].tolist(), asked[is_held].tolist(), strict=True):
            names = [name for image in held[row] if (name := self.pairs.get((image, question))) is not None]
            if names:
                both.setdefault(row, names[0])
        return both, {row: name for row, name in alone.items() if row not in both}
