"""An image file, opened and decoded: the formats that may be, and what is said of a file that is none.

The door itself is ``images.open_image``; this is what stands behind it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from llava_moe.data.images.bounds import CostlyImageError, most_pixels, refuse_costly
from llava_moe.data.images.deep_values import DarkImage, deep_picture, deep_rawmode
from llava_moe.data.images.odd_files import CUT, HEAD, TAIL, is_cut, is_zero_filled, odd_file, read_format
from llava_moe.data.images.reading import ImageReading, flatten, read_orientation, turn_upright

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000")
"""What Pillow may decode: pictures of pixels (a phone's MPO opens as JPEG). Trap: left to itself it tries every format
it knows by content, and its EPS reader starts Ghostscript on a file that calls itself photo.jpg."""


@dataclass(frozen=True)
class OpenedImage:
    """An opened image and what was met on the way.

    Attributes:
        image: 8-bit RGB, as it is trained on.
        orientation: 1 to 8, as the file gives it; 1 is upright.
        is_transparent: some pixel is, or was.
        dark: set where an image of deep values comes out nearly black.
    """

    image: Image.Image
    orientation: int = 1
    is_transparent: bool = False
    dark: DarkImage | None = None


def open_file(file: bytes | Path, page: int | None = None) -> ImageFile.ImageFile:
    """Pillow's image of a file, not decoded; only of ``FORMATS``.

    Args:
        page: of a TIFF, counted from 0; other formats have pictures that move, not pages.

    Raises:
        CostlyImageError: it asks for more memory or time than is allowed.
        Exception: whatever Pillow raises; ``UnidentifiedImageError`` where it is none of them.
    """
    refuse_costly(file, page)
    # A TGA has no mark of its own, so nearly anything may pass for one: its name must say so.
    is_named_tga = isinstance(file, Path) and file.suffix.lower() == ".tga"
    formats = (*_formats(), "TGA") if is_named_tga else _formats()
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats)
    if page:
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            raise EOFError(f"page {page} of a {image.format}, which has one")
        image.seek(page)
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow has: AVIF came with 11.3."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_file(
    image: ImageFile.ImageFile, name: str, reading: ImageReading, again: Callable[[], ImageFile.ImageFile]
) -> OpenedImage:
    """Decode an image that was opened; raises whatever Pillow raises.

    Args:
        again: opens the same file once more.
    """
    rawmode = deep_rawmode(image)
    refuse_large(image, image.mode if rawmode is not None else None)
    # Trap: Pillow turns a TIFF upright while it loads it, and forgets that it was not.
    is_turned = isinstance(image, TiffImagePlugin.TiffImageFile)
    orientation = read_orientation(image) if is_turned else 1
    image.load()
    # Trap: an icon's own header may say less than the picture inside it.
    refuse_large(image)
    dark = None
    if rawmode is None:
        picture, is_transparent = flatten(image, reading.alpha)
    else:
        picture, is_transparent, dark = deep_picture(image, rawmode, reading, again, name)
    if not is_turned:
        orientation = read_orientation(image)
        if reading.exif == "apply":
            picture = turn_upright(picture, orientation)
    return OpenedImage(picture, orientation, is_transparent, dark)


def refuse_large(image: Image.Image, deep_mode: str | None = None) -> None:
    """Refuse an image of more pixels than are opened of its format.

    Args:
        deep_mode: its mode where it has more than 8 bits a channel.

    Raises:
        CostlyImageError: it is one.
    """
    (width, height), most = image.size, most_pixels(image.format, deep_mode)
    if width * height > most:
        what = f"{image.format}" if deep_mode is None else f"{image.format} with more than 8 bits a channel"
        raise CostlyImageError(f"is {width} x {height}; of {what} at most {most:,} pixels are opened")


def refuse_zero_filled(file: bytes | Path) -> None:
    """Refuse an image of which only the first part was fetched, though the file is as long as it should be.

    Raises:
        OSError: it is one.
    """
    if any(_ends(file)[1]):
        return
    if is_zero_filled(file if isinstance(file, bytes) else file.read_bytes()):
        raise OSError("truncated: zero bytes stand in the place of its end")


def seems_cut(file: bytes | Path) -> bool:
    """Whether an image file lacks the end that its format has."""
    return is_cut(*_ends(file))


def failure_of(file: bytes | Path, error: Exception) -> str:
    """Why a file was not opened, as the rest of a sentence that begins with its name."""
    told = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, IsADirectoryError):
        return " is a folder: give the path of an image file"
    try:
        head, tail, size = _ends(file)
    except OSError:
        return f": {told}"
    if (odd := odd_file(head)) is not None:
        return f" is {odd}"
    is_unknown = isinstance(error, UnidentifiedImageError)
    if is_cut(head, tail, size) or "truncated" in told.lower():
        return f" is {CUT}" if is_unknown else f" is {CUT} ({told})"
    if is_unknown and (kind := read_format(head)) is not None:
        return f" begins as {kind} and is none that this Pillow decodes: fetch it again, or convert it to JPEG or PNG"
    if is_unknown:
        return " is no image that Pillow knows: fetch it again, or convert it to JPEG or PNG"
    return f": {told}"


def _ends(file: bytes | Path) -> tuple[bytes, bytes, int]:
    """A file's first bytes, its last, and its size."""
    if isinstance(file, bytes):
        return file[:HEAD], file[-TAIL:], len(file)
    with file.open("rb") as stream:
        head, size = stream.read(HEAD), stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - TAIL))
        return head, stream.read(TAIL), size
