"""What keeps features: the protocol, and the catalog of what is kept.

Features are kept by the pixels that the tower sees. Which pixels an encoded image becomes is kept beside them, so
that an image that was met before need not be decoded, and so that two ways to a square share the features of what is
square already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llava_moe.data.features.shape import FeatureShape


@dataclass(frozen=True)
class Seen:
    """What an encoded image has become.

    Attributes:
        pixels: SHA-256 of the pixels that the tower sees, 32 bytes.
        dark: lowest and highest value where an image of deep values comes out nearly black.
    """

    pixels: bytes
    dark: tuple[float, float] | None = None


class Catalog(Protocol):
    """What worker processes ask before they decode an image."""

    def seen(self, image: bytes) -> Seen | None:
        """What the image of this key has become; None where it was not met or its features are not to be had."""
        ...

    def holds(self, pixels: bytes) -> bool:
        """Whether whole features of these pixels are kept."""
        ...


class FeatureStore(Catalog, Protocol):
    """Features of many images; rows of a step are read from it by their slots."""

    shape: FeatureShape

    def add(self, pixels: bytes, features_TW: torch.Tensor) -> None:
        """Keep the features of these pixels; raises ``UserError`` where there is no room."""
        ...

    def name(self, image: bytes, seen: Seen) -> None:
        """Keep what an image has become."""
        ...

    def flush(self) -> None:
        """Have everything kept, so that it can be read."""
        ...

    def slot(self, pixels: bytes) -> int:
        """The number that the features of these pixels are read by."""
        ...

    def read(self, slots: Sequence[int]) -> torch.Tensor:
        """``[I, T, W]`` of these images, as :meth:`FeatureShape.empty` lays them out."""
        ...
