"""All different images of a mixture: who holds each first, and what was found when it was opened.

Shape letters: d different images, m images of records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_moe.datatools.check.pictures import Picture
from llava_moe.datatools.check.scan import PICTURES, Places


@dataclass
class Gallery:
    """The images by ascending key.

    Attributes:
        keys_d: uint64, see ``image_key``.
        views_d, rows_d, places_d: where each stands first.
        contents_d: uint64, hash of the encoded bytes; the key where it was not opened.
        pixels_d: uint64, hash of the pixels; 0 where it was not opened.
        is_opened_d: bool, training can use it.
        faults: kind, reason and detail of those that nobody can use, with the path, by place among the d.
        refused: the same for those that one reader's transform cannot take, by (reader, place).
    """

    keys_d: np.ndarray
    views_d: np.ndarray
    rows_d: np.ndarray
    places_d: np.ndarray
    contents_d: np.ndarray
    pixels_d: np.ndarray
    is_opened_d: np.ndarray
    faults: dict[int, tuple[str, str, str, str]] = field(default_factory=dict)
    refused: dict[tuple[int, int], tuple[str, str, str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: Sequence[np.ndarray], rows: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Gallery:
        """The different images among those of several views, none opened."""
        views = [np.full(len(part), number, dtype=np.int16) for number, part in enumerate(keys)]
        different, first = np.unique(np.concatenate(keys), return_index=True)
        return cls(
            different,
            np.concatenate(views)[first],
            np.concatenate(rows)[first],
            np.concatenate(places)[first],
            different.copy(),
            np.zeros(len(different), dtype=np.uint64),
            np.zeros(len(different), dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.keys_d)

    def find(self, keys_m: np.ndarray) -> np.ndarray:
        """int64 [m]: the places of keys among the d."""
        return np.searchsorted(self.keys_d, keys_m)

    def wanted(self, chosen: np.ndarray, num_views: int) -> tuple[list[Places], list[np.ndarray]]:
        """Tasks that open the chosen images in the order of their records, and the places that each is of."""
        tasks: list[Places] = []
        of_tasks: list[np.ndarray] = []
        for view in range(num_views):
            own = chosen[self.views_d[chosen] == view]
            own = own[np.lexsort((self.places_d[own], self.rows_d[own]))]
            for start in range(0, len(own), PICTURES):
                part = own[start : start + PICTURES]
                tasks.append(Places(view, tuple(self.rows_d[part].tolist()), tuple(self.places_d[part].tolist())))
                of_tasks.append(part)
        return tasks, of_tasks

    def enter(self, place: int, picture: Picture, path: str) -> None:
        """Keep what was found at an image."""
        if picture.fault is not None:
            self.faults[place] = (*picture.fault, path)
            return
        self.contents_d[place], self.pixels_d[place] = picture.content, picture.pixels
        self.is_opened_d[place] = True
        for reader, refusal in enumerate(picture.refused):
            if refusal is not None:
                self.refused[reader, place] = (*refusal, path)

    def bad(self, reader: int) -> dict[int, tuple[str, str, str, str]]:
        """The images that a reader cannot use, with why."""
        return self.faults | {place: why for (one, place), why in self.refused.items() if one == reader}
