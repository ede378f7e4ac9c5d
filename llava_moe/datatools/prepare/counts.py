"""The account of records that were prepared: of a chunk, or of a split as the sum of its chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llava_moe.datatools.prepare.int_histogram import Spread


@dataclass
class ImageCounts:
    """The account of images.

    Attributes:
        stored, paths: images in the shards, and images that are paths.
        looked_at: images whose header was read: all the stored ones, of the paths a sample or all.
        faults: of those looked at, by ``BadRecord`` reason.
        formats: of those that could be read, by Pillow's name.
        num_bytes, widths, heights: of those that could be read; bytes encoded, pixels.
    """

    stored: int = 0
    paths: int = 0
    looked_at: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    num_bytes: Spread = field(default_factory=Spread)
    widths: Spread = field(default_factory=Spread)
    heights: Spread = field(default_factory=Spread)

    def merge(self, other: ImageCounts) -> None:
        """Count all that ``other`` counted."""
        self.stored += other.stored
        self.paths += other.paths
        self.looked_at += other.looked_at
        self.faults.update(other.faults)
        self.formats.update(other.formats)
        self.num_bytes.merge(other.num_bytes)
        self.widths.merge(other.widths)
        self.heights.merge(other.heights)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "stored": self.stored,
            "paths": self.paths,
            "looked_at": self.looked_at,
            "faults": _sorted(self.faults),
            "formats": _sorted(self.formats),
            "num_bytes": self.num_bytes.as_dict(),
            "widths": self.widths.as_dict(),
            "heights": self.heights.as_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> ImageCounts:
        """What :meth:`as_dict` wrote."""
        return cls(
            *(told[name] for name in ("stored", "paths", "looked_at")),
            *(Counter(told[name]) for name in ("faults", "formats")),
            *(Spread.from_dict(told[name]) for name in ("num_bytes", "widths", "heights")),
        )


@dataclass
class Counts:
    """The account of records.

    Attributes:
        records: records that were written.
        other_split: records that say themselves that they are of another split; they were passed over.
        rejected: records that could not be read as records, by ``BadRecord`` reason.
        with_images: of those written, records with an image at least; the others are text alone.
        images, turns: in the records written.
        tasks: records written by task, those that name one.
        tokens: tokens of the turns of a record, for each record written; None where they were not counted.
        pictures: the account of the images.
    """

    records: int = 0
    other_split: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    with_images: int = 0
    images: int = 0
    turns: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    tokens: Spread | None = None
    pictures: ImageCounts = field(default_factory=ImageCounts)

    @property
    def text_only(self) -> int:
        """Records without an image."""
        return self.records - self.with_images

    def merge(self, other: Counts) -> None:
        """Count all that ``other`` counted."""
        self.records += other.records
        self.other_split += other.other_split
        self.rejected.update(other.rejected)
        self.with_images += other.with_images
        self.images += other.images
        self.turns += other.turns
        self.tasks.update(other.tasks)
        if other.tokens is not None:
            self.tokens = self.tokens or Spread()
            self.tokens.merge(other.tokens)
        self.pictures.merge(other.pictures)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "records": self.records,
            "other_split": self.other_split,
            "rejected": _sorted(self.rejected),
            "with_images": self.with_images,
            "text_only": self.text_only,
            "images": self.images,
            "turns": self.turns,
            "tasks": _sorted(self.tasks),
            "tokens": None if self.tokens is None else self.tokens.as_dict(),
            "pictures": self.pictures.as_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Counts:
        """What :meth:`as_dict` wrote."""
        return cls(
            records=told["records"],
            other_split=told["other_split"],
            rejected=Counter(told["rejected"]),
            with_images=told["with_images"],
            images=told["images"],
            turns=told["turns"],
            tasks=Counter(told["tasks"]),
            tokens=None if told["tokens"] is None else Spread.from_dict(told["tokens"]),
            pictures=ImageCounts.from_dict(told["pictures"]),
        )


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in sorted(counter)}
