"""Features in files of one folder, shared by all runs whose tower, precision and software are the same.

A file is added, never changed: two processes that write at once write two files, a killed one leaves none or a whole
one, and of features that stand in several files the newest count.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llava_moe.data.features.shape import FeatureShape
from llava_moe.data.features.shard import (
    SUFFIX,
    DamagedShardError,
    Place,
    read_features,
    read_shard,
    write_shard,
)
from llava_moe.data.features.store import Seen
from llava_moe.errors import UserError

BYTES_A_SHARD = 128 << 20
IMAGES_A_SHARD = 16_384


@dataclass
class DiskFeatures:
    """See :class:`FeatureStore`; opened by :func:`open_disk_features`.

    Attributes:
        writer: tells this process's files from those of others that write at the same time.
    """

    shape: FeatureShape
    folder: Path
    writer: str
    _places: dict[bytes, Place] = field(repr=False)
    _seen: dict[bytes, Seen] = field(repr=False)
    _whole: set[bytes] = field(default_factory=set, repr=False)
    _slots: dict[bytes, int] = field(default_factory=dict, repr=False)
    _order: list[bytes] = field(default_factory=list, repr=False)
    _new: dict[bytes, torch.Tensor] = field(default_factory=dict, repr=False)
    _new_seen: dict[bytes, Seen] = field(default_factory=dict, repr=False)

    @property
    def num_kept(self) -> int:
        """Images whose features are there."""
        return len(self._places)

    def seen(self, image: bytes) -> Seen | None:
        seen = self._seen.get(image)
        return seen if seen is not None and self.holds(seen.pixels) else None

    def holds(self, pixels: bytes) -> bool:
        """Whether features are there and are what was written: they are read for it, once in a process."""
        place = self._places.get(pixels)
        if place is None or pixels in self._whole:
            return place is not None
        try:
            is_whole = read_features(pixels, place, self._one())
        except OSError:
            return False
        if is_whole:
            self._whole.add(pixels)
        return is_whole

    def add(self, pixels: bytes, features_TW: torch.Tensor) -> None:
        self._new[pixels] = features_TW.contiguous()
        if len(self._new) * self.shape.num_bytes >= BYTES_A_SHARD:
            self.flush()

    def name(self, image: bytes, seen: Seen) -> None:
        if self._seen.get(image) != seen:
            self._new_seen[image] = self._seen[image] = seen
            if len(self._new_seen) >= IMAGES_A_SHARD:
                self.flush()

    def flush(self) -> None:
        """Write what waits as a file.

        Raises:
            UserError: the folder cannot be written, or its disk is full.
        """
        if not self._new and not self._new_seen:
            return
        number = 1 + max((_number(path) for path in self.folder.glob(f"*{SUFFIX}")), default=0)
        path = self.folder / f"{number:06d}-{self.writer}{SUFFIX}"
        try:
            write_shard(path, self.shape, self._new, self._new_seen)
            self._places |= read_shard(path, self.shape).places
        except OSError as error:
            raise unusable(self.folder, error) from error
        self._new, self._new_seen = {}, {}

    def slot(self, pixels: bytes) -> int:
        if pixels not in self._slots:
            if pixels not in self._places:
                raise KeyError(pixels.hex())
            self._slots[pixels] = len(self._order)
            self._order.append(pixels)
        return self._slots[pixels]

    def read(self, slots: Sequence[int]) -> torch.Tensor:
        """See :class:`FeatureStore`.

        Raises:
            UserError: a file was removed or altered since it was opened.
        """
        features_ITW = self.shape.empty(len(slots))
        one_TW = self._one()
        for number, slot in enumerate(slots):
            pixels = self._order[slot]
            place = self._places[pixels]
            try:
                told = "" if read_features(pixels, place, one_TW) else "altered"
            except OSError as error:
                told = error.strerror or type(error).__name__
            if told:
                raise UserError(
                    f"features in {place.path} cannot be read ({told}) since the run began: run the same command "
                    "again, which computes them again"
                )
            features_ITW[number].copy_(one_TW)
        return features_ITW

    def _one(self) -> torch.Tensor:
        return torch.empty(self.shape.num_vectors, self.shape.width, dtype=self.shape.dtype)


def open_disk_features(folder: Path, shape: FeatureShape, writer: str) -> tuple[DiskFeatures, list[tuple[Path, str]]]:
    """The features that a folder holds, which is made where it is missing; and its damaged files, with what they are.

    Raises:
        UserError: the folder cannot be made or read.
    """
    places: dict[bytes, Place] = {}
    seen: dict[bytes, Seen] = {}
    damaged: list[tuple[Path, str]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: (_number(path), path.name)):
            try:
                shard = read_shard(path, shape)
            except DamagedShardError as error:
                damaged.append((path, str(error)))
                continue
            except FileNotFoundError:
                # Another process found it damaged before.
                continue
            places |= shard.places
            seen |= shard.seen
    except OSError as error:
        raise unusable(folder, error) from error
    return DiskFeatures(shape, folder, writer, places, seen), damaged


def refuse_full_disk(folder: Path, num_images: int, shape: FeatureShape) -> None:
    """Raise ``UserError`` where the features of so many more images do not fit on the folder's disk."""
    needed, free = num_images * shape.num_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: its disk has {free / 1e9:.2f} GB free, and the features of {num_images:,} images take "
            f"{needed / 1e9:.2f} GB: free space, set LLAVA_MOE_CACHE to a folder on another disk, or take "
            "model.cache_features=off"
        )


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left half written; to be called by the one process that may write."""
    for part in folder.glob(f"*{SUFFIX}.*.part"):
        part.unlink(missing_ok=True)


def _number(path: Path) -> int:
    first = path.name.partition("-")[0]
    return int(first) if first.isdecimal() and first.isascii() else 0


def unusable(folder: Path, error: OSError) -> UserError:
    """What is said of a folder that cannot be written or read."""
    return UserError(
        f"cache {folder}: cannot be written or read ({error.strerror}); set LLAVA_MOE_CACHE to another folder, or take "
        "model.cache_features=off"
    )
