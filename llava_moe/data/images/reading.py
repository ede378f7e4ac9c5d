"""How an image file's pixels are read: its orientation, its transparency, and the range of its deep values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import ExifTags, Image

from llava_moe.data.images.bounds import refuse_heavy_tags

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BAND_PIXELS = 1 << 18
_CANVAS = {"white": (255, 255, 255), "black": (0, 0, 0)}


@dataclass(frozen=True)
class ImageReading:
    """How an image file becomes an RGB picture.

    Attributes:
        exif: ``apply`` turns a picture upright by its orientation (EXIF or XMP, all eight); ``ignore`` leaves it as it
            lies, as LLaVA does. A TIFF is upright either way: Pillow itself turns it.
        alpha: what shows through where a picture is transparent: ``white``, ``black``, or whatever colour the file
            keeps there (``drop``, LLaVA's ``convert("RGB")``).
        value_range: low and high, which become 0 and 255 in images of more than 8 bits a channel (12 bits of 16:
            ``(0, 4095)``; a CT window: ``(-160, 240)``). None: see ``deep_values``. Images of 8 bits stay as they are.
    """

    exif: Literal["apply", "ignore"] = "apply"
    alpha: Literal["white", "black", "drop"] = "white"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.exif not in ("apply", "ignore"):
            raise ValueError(f"exif={self.exif!r}: use apply or ignore")
        if self.alpha not in ("white", "black", "drop"):
            raise ValueError(f"alpha={self.alpha!r}: use white, black or drop")
        if self.value_range is not None and not is_value_range(self.value_range):
            raise ValueError(f"value_range={self.value_range!r}: give two finite numbers [low, high], low below high")


AS_LLAVA = ImageReading("ignore", "drop")
"""How LLaVA-1.5 itself reads images, and how runs read them that were trained before there was a choice."""


def is_value_range(value: object) -> bool:
    """Whether this is two finite numbers, the first below the second."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 2:
        return False
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in value):
        return False
    low, high = value
    try:
        return math.isfinite(low) and math.isfinite(high) and math.isfinite(float(high) - float(low)) and low < high
    except OverflowError:  # an integer that no float can hold
        return False


def read_orientation(image: Image.Image) -> int:
    """The orientation 1 to 8 that a file gives; 1 (upright) where it gives none, or one that cannot be read."""
    try:
        refuse_heavy_tags(_exif_block(image))
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Trap: on damaged blocks Pillow raises whatever it trips over. The picture is good all the same.
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _exif_block(image: Image.Image) -> bytes:
    """The block that Pillow reads the orientation from; none of a TIFF, which is judged before it is opened."""
    block = image.info.get("exif")
    if block is None and "Raw profile type exif" in image.info:
        block = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    return (block or b"").removeprefix(b"Exif\0\0")


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as its orientation means it; the same object where that is 1."""
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def flatten(image: Image.Image, alpha: Literal["white", "black", "drop"]) -> tuple[Image.Image, bool]:
    """An 8-bit image as RGB, and whether any pixel of it is transparent.

    Covers alpha channels, palettes with transparency, and PNG's one transparent colour (``tRNS``).
    """
    if not image.has_transparency_data:
        return (image if image.mode == "RGB" else image.convert("RGB")), False
    flat, is_transparent = Image.new("RGB", image.size), False
    for box in bands(image.size):
        band, is_clear = _flatten_band(image.crop(box), alpha)
        flat.paste(band, box)
        is_transparent |= is_clear
    return flat, is_transparent


def bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows that make up a picture from top to bottom: what is worked out on the way stays small."""
    width, height = size
    rows = max(1, BAND_PIXELS // width)
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def _flatten_band(image: Image.Image, alpha: Literal["white", "black", "drop"]) -> tuple[Image.Image, bool]:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    opacity = rgba.getchannel("A")
    is_transparent = opacity.getextrema() != (255, 255)
    if alpha == "drop" or not is_transparent:
        return image.convert("RGB"), is_transparent
    return lay_on(rgba.convert("RGB"), opacity, alpha), True


def lay_on(rgb: Image.Image, opacity: Image.Image, alpha: Literal["white", "black"]) -> Image.Image:
    """A picture on a white or black canvas, by its opacity (mode ``L``)."""
    canvas = Image.new("RGB", rgb.size, _CANVAS[alpha])
    canvas.paste(rgb, mask=opacity)
    return canvas
