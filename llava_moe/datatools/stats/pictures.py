"""The pixels of a batch as small pictures: half blocks in a terminal, a ``data:`` address in a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

PAGE_PIXELS = 224


def half_blocks(pixels: np.ndarray, width: int) -> Text:
    """A square picture ``width`` cells wide: each cell shows two pixels, one above the other.

    Args:
        pixels: uint8 [H, W, 3].
    """
    small = np.asarray(Image.fromarray(pixels).resize((width, width - width % 2), Image.Resampling.BOX))
    text = Text(no_wrap=True, end="")
    for top, bottom in zip(small[0::2], small[1::2], strict=True):
        for above, below in zip(top.tolist(), bottom.tolist(), strict=True):
            text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    text.right_crop(1)
    return text


def data_address(pixels: np.ndarray) -> str:
    """The picture as a WebP ``data:`` address, at most 224 pixels a side; exact where it is no larger."""
    picture = Image.fromarray(pixels)
    is_exact = max(picture.size) <= PAGE_PIXELS
    if not is_exact:
        picture.thumbnail((PAGE_PIXELS, PAGE_PIXELS))
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", lossless=is_exact, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
