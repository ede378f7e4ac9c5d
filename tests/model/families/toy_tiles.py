"""A family that is no LLaVA: an image is cut into one to three tiles, so images take unequal numbers of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import LlavaConfig, PreTrainedTokenizerBase

from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.images.transform import ImageTransform
from llava_moe.model import Architecture, BaseFacts, FromShape
from llava_moe.model.families.llava import Llava
from llava_moe.model.image_processor import ImageMode, ImageProcessor

MOST_TILES = 3


def num_tiles(size: ImageSize) -> int:
    """As many squares as fit along the longer side."""
    return min(MOST_TILES, max(size) // min(size))


@dataclass(frozen=True)
class TileTokens:
    """Places of an image: those of its tiles."""

    tokens_per_tile: int

    def __call__(self, size: ImageSize) -> int:
        return self.tokens_per_tile * num_tiles(size)


@dataclass(frozen=True)
class Tiles:
    """Pixels uint8 [tiles, 3, H, W], the tiles from left to right or from top to bottom."""

    tile: ImageTransform

    @property
    def mode(self) -> str:
        return "tiles"

    @property
    def facts(self) -> tuple[object, ...]:
        return ("tiles", *self.tile.facts)

    @property
    def normalization(self) -> tuple[object, ...]:
        return self.tile.normalization

    @property
    def null_size(self) -> ImageSize:
        return self.tile.null_size

    @property
    def position_ids(self) -> None:
        return None

    @property
    def no_pixels(self) -> np.ndarray:
        return self.tile.no_pixels

    def pixels_of(self, image: Image.Image) -> np.ndarray:
        (width, height), count = image.size, num_tiles(image.size)
        edges = np.linspace(0, max(width, height), count + 1).astype(int).tolist()
        wide = [(start, 0, end, height) for start, end in pairwise(edges)]
        boxes = wide if width >= height else [(0, left, width, right) for left, _, right, _ in wide]
        return np.concatenate([self.tile.pixels_of(image.crop(box)) for box in boxes])

    def num_entries(self, size: ImageSize) -> int:
        return num_tiles(size)

    def model_inputs(
        self, pixels_N: torch.Tensor, image_sizes: Sequence[ImageSize], dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        assert len(pixels_N) == sum(map(num_tiles, image_sizes)), "the pixels are not those of these images"
        return self.tile.model_inputs(pixels_N, image_sizes, dtype)


@dataclass(frozen=True)
class TilesShape(FromShape):
    """Random weights of a model that sees tiles."""


@dataclass(frozen=True)
class TilesFamily(Llava):
    """See :class:`~llava_moe.model.families.protocol.Family`. Its modules are LLaVA's; a tile is an image to them."""

    name: str = "tiles"
    architectures: tuple[type, ...] = (TilesShape,)

    def takes(self, architecture: Architecture) -> bool:
        return isinstance(architecture, TilesShape)

    def facts(self, config: LlavaConfig, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> BaseFacts:
        facts = super().facts(config, tokenizer, architecture)
        assert isinstance(facts.num_image_tokens, int)
        return replace(facts, num_image_tokens=TileTokens(facts.num_image_tokens))

    def image_inputs(self, base: BaseFacts, mode: ImageMode, nearest: ImageProcessor | None = None) -> Any:
        return Tiles(super().image_inputs(base, mode, nearest))

    def processor(self, *_: Any) -> Any:
        raise ValueError("Hugging Face's image processor of LLaVA cuts no tiles")


TILES = TilesFamily()
