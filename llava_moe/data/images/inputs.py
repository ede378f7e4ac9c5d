"""What a family of models is given of images. Each image is asked about: two need not come out alike.

Shape letters: t tokens of one example, I images, N entries of the pixels' first axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

ImageSize = tuple[int, int]
"""Width and height of an image as it is opened, upright."""


class TokensBySize(Protocol):
    """How many places of the sequence an image takes, where that depends on its size.

    Its ``repr`` names all that decides the number: it is part of the names of caches.
    """

    def __call__(self, size: ImageSize) -> int:
        """Places of an image of this size; at least 1."""
        ...


class PositionIds(Protocol):
    """The positions of one example's tokens, where they are not 0, 1, 2, ... ."""

    def __call__(self, input_ids_t: np.ndarray, image_sizes: Sequence[ImageSize]) -> np.ndarray:
        """int64 [..., t]; axes in front (time, height, width) stand in front of the batch axis too."""
        ...


class ImageInputs(Protocol):
    """Images to pixels, and pixels to what the model is called with beside its tokens.

    The pixels of one image are uint8 ``[N, ...]``. N may be another for each image (tiles, patches); all other axes are
    the same for all images, so that a packed row lays pixels end to end along the first.
    """

    @property
    def mode(self) -> str:
        """How an image is made to fit, in a word that results are told by."""
        ...

    @property
    def facts(self) -> tuple[object, ...]:
        """All that decides which pixels an image becomes; part of the name under which its features are kept."""
        ...

    @property
    def normalization(self) -> tuple[object, ...]:
        """What becomes of pixels on the device; part of the names of features and of answers."""
        ...

    @property
    def null_size(self) -> ImageSize:
        """The size of the black image that a row without images gets, where one is needed."""
        ...

    @property
    def position_ids(self) -> PositionIds | None:
        """What gives an example's tokens their positions; None where they are 0, 1, 2, ... ."""
        ...

    @property
    def no_pixels(self) -> np.ndarray:
        """uint8 [0, ...]: the pixels of no image."""
        ...

    def pixels_of(self, image: Image.Image) -> np.ndarray:
        """uint8 [N, ...] of an RGB image.

        Raises:
            BadRecord: the image has a shape that the family cannot be given.
        """
        ...

    def num_entries(self, size: ImageSize) -> int:
        """N of an image of this size."""
        ...

    def model_inputs(
        self, pixels_N: torch.Tensor, image_sizes: Sequence[ImageSize], dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """Forward arguments of images.

        Args:
            pixels_N: uint8 [N, ...], those of I images end to end, on the model's device.
            image_sizes: of the I images; empty where all images are given alike.
            dtype: of the vision tower.
        """
        ...


@dataclass(frozen=True)
class SeenImage:
    """One image as a model is given it: uint8 pixels [N, ...], and its size as it was opened."""

    pixels: np.ndarray
    size: ImageSize


def see(inputs: ImageInputs, image: Image.Image) -> SeenImage:
    """An opened RGB image as a model is given it.

    Raises:
        BadRecord: see :meth:`ImageInputs.pixels_of`.
    """
    return SeenImage(inputs.pixels_of(image), image.size)


def inputs_of(
    inputs: ImageInputs, images: Sequence[SeenImage], device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Forward arguments of images that are seen together, in the order of their places."""
    # Processes that only open images do without: it takes two hundred megabytes of each.
    import torch

    pixels_N = torch.from_numpy(np.concatenate([one.pixels for one in images])).to(device)
    return inputs.model_inputs(pixels_N, [one.size for one in images], dtype)
