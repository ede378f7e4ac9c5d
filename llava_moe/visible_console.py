"""A console that shows what it is given and never obeys it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from llava_moe.visible import visible


class VisibleConsole(Console):
    """Rich's console; control characters in what it renders, names and data among them, are written out.

    Rich's own codes (colours, a bar that moves) are no text and stay.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As the base class, its text made visible."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible(segment.text, keep="\n\t"), segment.style)
