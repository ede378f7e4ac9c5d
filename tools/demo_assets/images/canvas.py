"""The drawing surface of charts and tables: a square matplotlib figure, turned into an image."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

matplotlib.use("Agg")

SIZE = 160
COLORS = {
    "blue": "#1f6fd0",
    "orange": "#ff8c1a",
    "green": "#2a9d3a",
    "red": "#d62728",
    "purple": "#8a3fc0",
    "black": "#202020",
}
ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth")


def new_figure(left: float, bottom: float, width: float, height: float) -> tuple[Figure, Axes]:
    """A SIZE x SIZE pixel figure with one pair of axes at the given share of the surface."""
    figure = Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100)
    axes = figure.add_axes((left, bottom, width, height))
    axes.tick_params(labelsize=5, length=1.5, width=0.5, pad=1)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
    return figure, axes


def as_image(figure: Figure) -> Image.Image:
    """The figure's pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png", metadata={"Software": None})
    return Image.open(buffer).convert("RGB")


def ordered_for(values: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of the values that puts the largest at place `target`, so that every place is equally frequent."""
    order = rng.permutation(len(values))
    place = int(np.flatnonzero(order == values.argmax())[0])
    order[[place, target]] = order[[target, place]]
    return order
