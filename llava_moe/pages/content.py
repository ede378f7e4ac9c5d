"""What pages are made of: drawings and tables, each with its caption."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A drawing, as :func:`~llava_moe.pages.inline_svg.inline_svg` gives it.

    Attributes:
        name: of its own file, ``NAME.svg``.
    """

    name: str
    drawing: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column is a label."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
