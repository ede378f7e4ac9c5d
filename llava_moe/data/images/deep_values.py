"""Images of more than 8 bits a channel (scans, microscopes, CT) as 8 bits, and whether that leaves them nearly black.

Shape letters: H height, W width, C colours (1 of a grey image, else 3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from llava_moe.data.images.reading import ImageReading, bands, lay_on

DARK = 64
"""A quarter of white."""
MOST_KEPT = 100_000
"""Images that an account remembers by name."""
DARK_SHARE = 0.99
"""Of an image's pixels; the rest may be a label, a bright spot or a hot pixel."""

# The same bytes with the halves of each value exchanged: what Pillow then keeps is the low byte.
_EXCHANGED = {"16B": "16L", "16L": "16B", "16N": "16B"}
_PGM = "PGM;"
"""Before the white that a PGM file names: Pillow stretches its values to 65,535."""
_COLORS = re.compile(r"(?P<mode>RGB|RGBX|RGBA|LA);(?P<order>16[BLN])")


@dataclass(frozen=True)
class DarkImage:
    """An image of deep values that comes out nearly black.

    Attributes:
        name: the image's path, or what it is called in its record.
        lowest, highest: the values that it holds.
    """

    name: str
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.name} (its values: {self.lowest:g} to {self.highest:g})"

    @property
    def remedy(self) -> str:
        """The setting that gives its values the whole way from black to white."""
        low, high = min(0.0, self.lowest), self.highest
        if low == 0 and high >= 1 and high.is_integer():
            # Instruments use whole bits: a picture of 12 may hold nothing above 4,000.
            high = 2.0 ** int(high).bit_length() - 1
        return f"value_range: [{low:.10g}, {high:.10g}]"


def dark_line(dark: Iterable[DarkImage]) -> str | None:
    """A line on images that came out nearly black, each counted once; None where there is none."""
    found = {one.name: one for one in dark}
    if not found:
        return None
    first = next(iter(found.values()))
    more = " or more" if len(found) >= MOST_KEPT else ""
    many = "1 image" if len(found) == 1 else f"{len(found):,} images{more}"
    return (
        f"{many} of more than 8 bits came out nearly black, such as {first}: give the source {first.remedy} (beside "
        "model.path= it is data.value_range=)"
    )


def deep_rawmode(image: ImageFile.ImageFile) -> str | None:
    """How the values of a deep image lie in its file, asked before it is loaded; None for 8 bits or fewer.

    Pillow keeps grey of 16 bits and more whole (modes ``I;16``, ``I``, ``F``), and of 16-bit colours the high bytes.
    """
    arguments = image.tile[0].args if image.tile else None
    if _is_gray(image) and image.tile and image.tile[0].codec_name.startswith("ppm") and isinstance(arguments, tuple):
        return f"{_PGM}{arguments[-1]}"
    rawmode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if _is_gray(image):
        return str(rawmode or image.mode)
    return rawmode if isinstance(rawmode, str) and _COLORS.fullmatch(rawmode) else None


def deep_picture(
    image: Image.Image, rawmode: str, reading: ImageReading, again: Callable[[], ImageFile.ImageFile], name: str
) -> tuple[Image.Image, bool, DarkImage | None]:
    """A loaded deep image as RGB, whether any pixel of it is transparent, and itself where it comes out nearly black.

    Args:
        rawmode: see :func:`deep_rawmode`.
        again: opens the same file once more: 16-bit colours come whole from two readings.
    """
    low_bytes = None if _is_gray(image) else _second_reading(rawmode, again)
    value_range = reading.value_range
    if value_range is None and _is_gray(image):
        value_range = (
            0,
            _white(max(_largest(values) for values, _, _ in _values(image, rawmode)), image.mode, rawmode),
        )
    flat, is_transparent, tally = Image.new("RGB", image.size), False, _Tally()
    for values_HWC, opacity_HW, box in _values(image, rawmode, low_bytes):
        if value_range is not None:
            eight_HWC = _eight_bits(values_HWC, *value_range)
        else:
            # Pillow's own pixels, which LLaVA trains on: the high bytes.
            eight_HWC = (values_HWC >> 8).astype(np.uint8)
        band = Image.fromarray(np.ascontiguousarray(np.broadcast_to(eight_HWC, (*eight_HWC.shape[:2], 3))))
        if opacity_HW is not None and bool((opacity_HW < 255).any()):
            is_transparent = True
            if reading.alpha != "drop":
                band = lay_on(band, Image.fromarray(opacity_HW), reading.alpha)
        flat.paste(band, box)
        tally.add(eight_HWC, values_HWC)
    return flat, is_transparent, tally.dark(name)


def _eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if values.dtype == np.uint16 and values.size > 65_536:
        return np.asarray(_scaled(np.arange(65_536), low, high)[values])
    return _scaled(values, low, high)


def _largest(values: np.ndarray) -> float:
    """Of the values that are numbers, and not below 0."""
    return float(np.nan_to_num(values, posinf=0.0, neginf=0.0).max(initial=0))


def _white(largest: float, mode: str, rawmode: str) -> float:
    """What becomes 255 where no range is given: the full range of the kind.

    Integers: 65,535 (4,095 where the file says that they have 12 bits, a PGM's own white), or the largest value present
    where that is larger. Floats: 1 where none is larger, else 255, else the largest value present.
    """
    if mode == "F":
        return 1.0 if largest <= 1.0 else max(255.0, largest)
    if rawmode.startswith(_PGM):
        return float(rawmode.removeprefix(_PGM))
    return max(4_095.0 if rawmode == "I;12" else 65_535.0, largest)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    deep = np.nan_to_num(values.astype(np.float64), nan=low, posinf=low, neginf=low)
    return np.rint(np.clip((deep - low) / (high - low) * 255.0, 0, 255)).astype(np.uint8)


def _is_gray(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _values(
    image: Image.Image, rawmode: str, low_bytes: Image.Image | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None, tuple[int, int, int, int]]]:
    """Band by band the values [H, W, C], 16-bit colours whole, the opacity uint8 [H, W] where the file has one, and
    the band's box.

    Args:
        low_bytes: of 16-bit colours.
    """
    see_through = image.info.get("transparency")
    for box in bands(image.size):
        if low_bytes is None:
            values_HWC = _gray_values(np.asarray(image.crop(box)), rawmode)
        else:
            values_HWC = _whole_colors(np.asarray(image.crop(box)), np.asarray(low_bytes.crop(box)), rawmode)
        opacity_HW = None
        if low_bytes is not None and values_HWC.shape[2] in (2, 4):
            values_HWC, opacity_HW = values_HWC[..., :-1], (values_HWC[..., -1] >> 8).astype(np.uint8)
        elif isinstance(see_through, int | tuple):
            is_seen_HW = (values_HWC != np.asarray(see_through)).any(axis=-1)
            opacity_HW = np.where(is_seen_HW, 255, 0).astype(np.uint8)
        yield values_HWC, opacity_HW, box


def _gray_values(values_HW: np.ndarray, rawmode: str) -> np.ndarray:
    values_HWC = values_HW[..., None].astype(values_HW.dtype.newbyteorder("="))
    if not rawmode.startswith(_PGM):
        return values_HWC
    return np.asarray(np.rint(values_HWC * (float(rawmode.removeprefix(_PGM)) / 65_535.0)).astype(np.int32))


def _second_reading(rawmode: str, again: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """The low bytes of 16-bit colours; of grey with opacity all four bytes of a pixel, in the mode of four colours."""
    found = _COLORS.fullmatch(rawmode)
    assert found is not None, rawmode
    with again() as image:
        if found["mode"] == "LA":
            # Four bytes a pixel, as RGBA has them: they come as they stand.
            image._mode = "RGBA"
            _read_as(image, "RGBA")
        else:
            _read_as(image, f"{found['mode']};{_EXCHANGED[found['order']]}")
        return image


def _whole_colors(high_HWC: np.ndarray, second_HWC: np.ndarray, rawmode: str) -> np.ndarray:
    """16-bit colours as uint16, from the high bytes and what the second reading gave."""
    found = _COLORS.fullmatch(rawmode)
    if found is not None and found["mode"] == "LA":
        first, second = (0, 1) if found["order"] == "16B" else (1, 0)
        bytes_HW4 = second_HWC.astype(np.uint16)
        return (bytes_HW4[..., first::2] << 8) | bytes_HW4[..., second::2]
    return (high_HWC.astype(np.uint16) << 8) | second_HWC


def _read_as(image: ImageFile.ImageFile, rawmode: str) -> None:
    tiles = []
    for tile in image.tile:
        arguments = (rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode
        tiles.append(tile._replace(args=arguments))
    image.tile = tiles
    image.load()


class _Tally:
    """What is counted of an image band by band."""

    def __init__(self) -> None:
        self.num_dark = self.num_pixels = 0
        self.lowest, self.highest = math.inf, -math.inf

    def add(self, eight_HWC: np.ndarray, values_HWC: np.ndarray) -> None:
        brightest_HW = eight_HWC.max(axis=-1)
        self.num_dark += int(np.count_nonzero(brightest_HW < DARK))
        self.num_pixels += brightest_HW.size
        finite = values_HWC[np.isfinite(values_HWC)] if values_HWC.dtype.kind == "f" else values_HWC
        if finite.size:
            self.lowest = min(self.lowest, float(finite.min()))
            self.highest = max(self.highest, float(finite.max()))

    def dark(self, name: str) -> DarkImage | None:
        """The image where nearly all of it is below a quarter of white, though it holds more than one value."""
        if self.num_dark < DARK_SHARE * self.num_pixels or self.lowest >= self.highest:
            return None
        return DarkImage(name, self.lowest, self.highest)
