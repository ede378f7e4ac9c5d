"""How ``eval`` and ``chat`` read images: as the run was trained, or as their keys say for a model without a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from llava_moe.data.images.deep_values import DarkImage, dark_line
from llava_moe.data.images.reading import ImageReading
from llava_moe.text.escape_control import visible


def reading_asked(data: Mapping[str, Any]) -> ImageReading:
    """The reading that the keys ask for; null is the default."""
    given = {key: value for key, value in data.items() if value is not None}
    if "value_range" in given:
        low, high = given["value_range"]
        given["value_range"] = (low, high)
    return ImageReading(**given)


def tell_dark(dark: Iterable[DarkImage], console: Console) -> None:
    """A line on the images that came out nearly black, if there are any."""
    if line := dark_line(dark):
        console.print(visible(line), style="yellow", highlight=False, markup=False, soft_wrap=True)
