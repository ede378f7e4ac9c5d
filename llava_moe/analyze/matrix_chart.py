"""Matrices as a drawing: a square a pair, blue above zero and red below, its number inside."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llava_moe.analyze.output import MINUS
from llava_moe.pages.inline_svg import INK, STYLE, inline_svg
from llava_moe.text.escape_control import visible

_COLORS = LinearSegmentedColormap.from_list("harm-help", ["#b3411d", "#ffffff", "#3987e5"])
_PANELS_A_ROW = 3
_LONGEST_NAME = 14
_LETTERS_AN_INCH = 10
"""Of a title: one that ran into the next panel would be cut there."""
_MOST_NUMBERED = 12
"""Groups above which a cell has no room for its number."""


def matrix_chart(
    matrices: Mapping[str, np.ndarray], names: Sequence[str], label: str, columns: str = "updating"
) -> str:
    """Matrices [D, D] side by side, each under its title; rows are affected, ``columns`` says what columns do.

    Colours are full at 1 and beyond.
    """
    num_rows = math.ceil(len(matrices) / _PANELS_A_ROW)
    num_columns = min(_PANELS_A_ROW, len(matrices))
    size = max(2.4, 0.42 * len(names) + 1.0)
    with rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(size * num_columns, size * num_rows), layout="constrained")
        for place, (title, matrix_DD) in enumerate(matrices.items(), start=1):
            axes = figure.add_subplot(num_rows, num_columns, place)
            # Squares, no picture: an image inside an SVG would be one more thing that a page may not load.
            axes.pcolormesh(np.clip(matrix_DD, -1, 1), cmap=_COLORS, vmin=-1, vmax=1, edgecolors="white", linewidth=1)
            axes.invert_yaxis()
            axes.set_aspect("equal")
            axes.set_title(textwrap.fill(title, round(_LETTERS_AN_INCH * size)))
            shown = [_shortened(name) for name in names]
            is_left, is_bottom = (place - 1) % num_columns == 0, place > len(matrices) - num_columns
            ticks = np.arange(len(names)) + 0.5
            axes.set_xticks(ticks, shown if is_bottom else [], rotation=35, ha="right", rotation_mode="anchor")
            axes.set_yticks(ticks, shown if is_left else [])
            axes.tick_params(length=0)
            if is_left:
                axes.set_ylabel("affected")
            if is_bottom:
                axes.set_xlabel(columns)
            if len(names) <= _MOST_NUMBERED:
                _number(axes, matrix_DD)
        return inline_svg(figure, label)


def _number(axes: Axes, matrix_DD: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix_DD):
        is_known = math.isfinite(value)
        # A cell without a value shows the page's own ground.
        ink = INK if not is_known else "#ffffff" if abs(value) > 0.65 else "#1b1b19"
        text = f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS) if is_known else "\N{EN DASH}"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=ink)


def _shortened(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"
