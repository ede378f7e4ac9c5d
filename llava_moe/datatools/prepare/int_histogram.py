"""How whole numbers are spread: count, sum, extremes, and a histogram by powers of two, of any number of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Spread:
    """An account of whole numbers >= 0 that adds up: of two halves of a source it is the whole source's.

    Attributes:
        count, total: how many, and their sum.
        smallest, largest: None where there is none.
        histogram: numbers in (edge / 2, edge] by ``edge``, a power of two; 0 and 1 have edges of their own.
    """

    count: int = 0
    total: int = 0
    smallest: int | None = None
    largest: int | None = None
    histogram: Counter[int] = field(default_factory=Counter)

    def add(self, value: int) -> None:
        """Count one number."""
        self.count += 1
        self.total += value
        self.smallest = value if self.smallest is None else min(self.smallest, value)
        self.largest = value if self.largest is None else max(self.largest, value)
        self.histogram[1 << (value - 1).bit_length() if value > 1 else value] += 1

    def merge(self, other: Spread) -> None:
        """Count all that ``other`` counted."""
        self.count += other.count
        self.total += other.total
        smallest = [value for value in (self.smallest, other.smallest) if value is not None]
        largest = [value for value in (self.largest, other.largest) if value is not None]
        self.smallest, self.largest = min(smallest, default=None), max(largest, default=None)
        self.histogram.update(other.histogram)

    @property
    def mean(self) -> float | None:
        """None where there is no number."""
        return self.total / self.count if self.count else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it, the mean to three digits among it."""
        return {
            "count": self.count,
            "total": self.total,
            "mean": None if self.mean is None else round(self.mean, 3),
            "min": self.smallest,
            "max": self.largest,
            "histogram": {str(edge): self.histogram[edge] for edge in sorted(self.histogram)},
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Spread:
        """What :meth:`as_dict` wrote."""
        histogram = Counter({int(edge): count for edge, count in told["histogram"].items()})
        return cls(told["count"], told["total"], told["min"], told["max"], histogram)
