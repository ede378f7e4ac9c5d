"""Drawings of the atlas: information by layer, and what moves from checkpoint to checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llava_moe.pages.inline_svg import INK, STYLE, inline_svg

KIND_INKS = {
    "all": INK,
    "image": "#8a63d2",
    "prompt": "#b07d2b",
    "answer": "#2e8b8b",
    "record": INK,
    "A": "#2e8b8b",
    "B": "#8a63d2",
    "gates": "#2e8b8b",
}
"""Colours of kinds of token and of sides, none of which stands for a domain."""


@dataclass(frozen=True)
class Line:
    """Values over places along the horizontal axis, with what they reach up and down to."""

    name: str
    places: Sequence[int]
    values: np.ndarray
    lows: np.ndarray
    highs: np.ndarray


def information_chart(lines: Sequence[Line], most: float) -> str:
    """Mutual information by layer, a line a kind of token (or a side), with error bars.

    Args:
        most: the bits that name the domain.
    """
    layers = sorted({place for line in lines for place in line.places})
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for number, line in enumerate(lines):
            _draw(axes, line, shift=0.08 * (number - (len(lines) - 1) / 2))
        axes.set_xlabel("layer")
        axes.set_ylabel("bits about the domain")
        top = max((float(np.nanmax(line.highs, initial=0.0)) for line in lines), default=0.0)
        axes.set_ylim(0, max(0.02, 1.1 * top))
        if layers == [-1]:
            axes.set_xticks([-1], ["whole model"])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.set_title(f"Mutual information of expert and domain ({most:.2f} bits would name it)")
        return inline_svg(figure, "Mutual information of expert and domain by layer")


def drift_chart(changed: Sequence[Line], information: Sequence[Line]) -> str:
    """Two panels over the optimizer's steps: decisions that changed since the checkpoint before, and information."""
    panels: Mapping[str, Sequence[Line]] = {
        "share of decisions that changed": changed,
        "bits about the domain, mean over routers": information,
    }
    with rc_context(STYLE | {"axes.titlesize": 9.5}):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        for place, (title, lines) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(1, 2, place)
            for line in lines:
                _draw(axes, line)
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return inline_svg(figure, "Routing from checkpoint to checkpoint")


def _draw(axes: Axes, line: Line, shift: float = 0.0) -> None:
    color = KIND_INKS.get(line.name, INK)
    places = np.array(line.places, dtype=float) + shift
    ends = np.stack([line.values - line.lows, line.highs - line.values])
    is_known = np.isfinite(line.values)
    axes.errorbar(
        places[is_known],
        line.values[is_known],
        np.nan_to_num(np.maximum(ends, 0.0))[:, is_known],
        color=color,
        marker="o",
        markersize=3.5,
        linewidth=1.4,
        elinewidth=0.9,
    )
