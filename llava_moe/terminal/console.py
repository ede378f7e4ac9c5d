"""A console that shows what it is given and never obeys it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

from llava_moe.text.escape_control import visible

_FILE: property = vars(Console)["file"]
_ENDLESS = 1 << 16


class VisibleConsole(Console):
    """Rich's console; what stands in its text, names and data among it, is shown as it is.

    Control characters are written out, ``[bold]`` and ``:smile:`` mean nothing: styles are given as such. Rich's own
    codes (colours, a bar that moves) are no text and stay.

    Args:
        settings: of rich's console.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False} | settings)

    @property
    def file(self) -> IO[str]:
        """Where it writes: behind a :class:`~llava_moe.terminal.stream.VisibleStream`, which is for everyone else."""
        file = super().file
        return getattr(file, "rich_proxied_file", file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        _FILE.__set__(self, new_file)

    def render_str(self, text: str, **settings: Any) -> Text:
        """As the base class; its text made visible, before rich drops what makes a terminal ring or go back."""
        return super().render_str(visible(text, keep="\n\t"), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As the base class, its text made visible."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible(segment.text, keep="\n\t"), segment.style)

    def status(self, status: RenderableType, **settings: Any) -> Status:
        """As the base class, which would read the text as mark-up."""
        return super().status(visible_text(status) if isinstance(status, str) else status, **settings)


def visible_text(text: str, style: str = "") -> Text:
    """Text from anywhere with a style; rich's own class drops some control characters unseen."""
    return Text(visible(text, keep="\n\t"), style=style)


def print_whole(console: Console, table: Table) -> None:
    """Print a table; into a pipe or a file, which have no width, as wide as it is: names there are for copying.

    A width that was asked for (``COLUMNS``) is kept.
    """
    if not console.is_terminal and "COLUMNS" not in os.environ:
        room = console.options.update(max_width=_ENDLESS)
        before, console.width = console.width, max(console.width, Measurement.get(console, room, table).maximum)
        console.print(table)
        console.width = before
    else:
        console.print(table)
