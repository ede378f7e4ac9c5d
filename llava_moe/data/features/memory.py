"""Features in this process's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from llava_moe.data.features.shape import FeatureShape
from llava_moe.data.features.store import Seen
from llava_moe.errors import UserError

_IMAGES_A_BLOCK = 64


@dataclass
class MemoryFeatures:
    """See :class:`FeatureStore`.

    Attributes:
        room: bytes that they may take.
    """

    shape: FeatureShape
    room: int
    _blocks: list[torch.Tensor] = field(default_factory=list, repr=False)
    _slots: dict[bytes, int] = field(default_factory=dict, repr=False)

    def seen(self, image: bytes) -> Seen | None:
        """Nothing: each start begins from nothing."""
        return None

    def holds(self, pixels: bytes) -> bool:
        return pixels in self._slots

    def add(self, pixels: bytes, features_TW: torch.Tensor) -> None:
        slot = len(self._slots)
        if (slot + 1) * self.shape.num_bytes > self.room:
            raise refused(slot + 1, self.shape, self.room)
        if slot % _IMAGES_A_BLOCK == 0:
            sizes = (_IMAGES_A_BLOCK, self.shape.num_vectors, self.shape.width)
            self._blocks.append(torch.empty(sizes, dtype=self.shape.dtype))
        self._blocks[-1][slot % _IMAGES_A_BLOCK].copy_(features_TW)
        self._slots[pixels] = slot

    def name(self, image: bytes, seen: Seen) -> None:
        """Nothing to keep."""

    def flush(self) -> None:
        """Nothing waits."""

    def slot(self, pixels: bytes) -> int:
        return self._slots[pixels]

    def read(self, slots: Sequence[int]) -> torch.Tensor:
        features_ITW = self.shape.empty(len(slots))
        for place, slot in enumerate(slots):
            features_ITW[place].copy_(self._blocks[slot // _IMAGES_A_BLOCK][slot % _IMAGES_A_BLOCK])
        return features_ITW


def refused(num_images: int, shape: FeatureShape, room: int) -> UserError:
    """What is said where the features of so many images do not fit."""
    return UserError(
        f"model.cache_features=memory: the features of {num_images:,} images take "
        f"{num_images * shape.num_bytes / 1e9:.2f} GB, and {room / 1e9:.2f} GB of memory is free for them: take "
        "model.cache_features=disk, or off"
    )
