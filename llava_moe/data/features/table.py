"""Which features a record's images have: what a step needs in the place of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.data.conversation import BadRecord


@dataclass(frozen=True)
class RowFeatures:
    """A record's images: the slots of their features, and lowest and highest value of those that come out dark."""

    slots: tuple[int, ...]
    dark: tuple[tuple[int, tuple[float, float]], ...] = ()


@dataclass(frozen=True)
class FeatureTable:
    """Records of a mixture by (place of their source, row) to their features; a few numbers a record.

    Attributes:
        null_slot: of the image in rows that hold none; None where there is no such image.
        places, rows: int64 [n], sorted; ``ends``: int64 [n], where each record's slots end in ``slots``.
        dark, faults: of the few records that have any: the image's number and its values, and why none can be opened.
    """

    places: np.ndarray
    rows: np.ndarray
    ends: np.ndarray
    slots: np.ndarray
    dark: dict[tuple[int, int], tuple[tuple[int, tuple[float, float]], ...]]
    faults: dict[tuple[int, int], tuple[str, str]]
    null_slot: int | None = None

    @staticmethod
    def of(
        records: Iterable[tuple[int, int]],
        features: Sequence[RowFeatures | BadRecord],
        null_slot: int | None = None,
    ) -> FeatureTable:
        """Of records in the order of (place, row)."""
        known = np.asarray(list(records), dtype=np.int64).reshape(-1, 2)
        slots: list[int] = []
        ends, dark, faults = [], {}, {}
        for (place, row), one in zip(known.tolist(), features, strict=True):
            if isinstance(one, BadRecord):
                faults[place, row] = (one.reason, one.detail)
            else:
                slots += one.slots
                if one.dark:
                    dark[place, row] = one.dark
            ends.append(len(slots))
        ends_n, slots_m = np.asarray(ends, dtype=np.int64), np.asarray(slots, dtype=np.int64)
        return FeatureTable(known[:, 0], known[:, 1], ends_n, slots_m, dark, faults, null_slot)

    def of_record(self, place: int, row: int) -> RowFeatures:
        """A record's features.

        Raises:
            BadRecord: an image of it cannot be opened.
            KeyError: no such record was asked for.
        """
        if (fault := self.faults.get((place, row))) is not None:
            raise BadRecord(*fault)
        first, end = (int(np.searchsorted(self.places, place, side)) for side in ("left", "right"))
        at = first + int(np.searchsorted(self.rows[first:end], row))
        if at >= end or self.rows[at] != row:
            raise KeyError((place, row))
        start = int(self.ends[at - 1]) if at else 0
        return RowFeatures(tuple(self.slots[start : self.ends[at]].tolist()), self.dark.get((place, row), ()))
