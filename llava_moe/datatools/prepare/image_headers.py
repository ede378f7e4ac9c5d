"""What an image's header says, without decoding a pixel."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.bounds import CostlyImageError
from llava_moe.data.images.file import open_file


@dataclass(frozen=True)
class Header:
    """Of an encoded image: Pillow's name of its format, and its size in pixels."""

    format: str
    width: int
    height: int


def read_header(image: bytes | Path) -> Header | None:
    """The header of an encoded image or of an image file; None where Pillow knows no such image.

    Raises:
        BadRecord: ``image_too_large``, already the header costs more than is allowed.
    """
    try:
        with _bombs_allowed(), open_file(image) as opened:
            width, height = opened.size
            return Header(opened.format or "unknown", int(width), int(height))
    except CostlyImageError as error:
        name = f"{len(image)} bytes in the record" if isinstance(image, bytes) else str(image)
        raise BadRecord("image_too_large", f"{name} {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError, struct.error):
        # Pillow's plugins raise all of these on damaged headers.
        return None


@contextmanager
def _bombs_allowed() -> Iterator[None]:
    """The size of a decompression bomb is wanted like any other: nothing is decompressed here."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
