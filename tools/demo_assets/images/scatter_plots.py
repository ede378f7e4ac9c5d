"""Scatter plots of cars and penguins, drawn by us; rows are dealt to splits, so no point is in two of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.ticker import MaxNLocator

from tools.demo_assets.images.canvas import COLORS, as_image, new_figure
from tools.demo_assets.images.chart_numbers import Numbers
from tools.demo_assets.images.item import DOCUMENTS, Item, Pair, yes_no
from tools.demo_assets.images.splits import generator, split_of_key

COUNTS = {"train": 200, "val": 20, "test": 50}
RISING = (("displ", "weight"), ("weight", "hp"), ("displ", "hp"))
FALLING = (("weight", "mpg"), ("displ", "mpg"), ("hp", "mpg"))
TITLES = {"displ": "Displacement", "weight": "Weight", "hp": "Horsepower", "mpg": "Miles per gallon"}


def draw_scatter_plots(numbers: Numbers) -> Iterator[Item]:
    """COUNTS plots: two thirds cars in one colour (rising or falling), one third penguins in two or three."""
    for split, count in COUNTS.items():
        for index in range(count):
            rng = generator("scatter", split, index)
            yield _penguins(numbers, split, index, rng) if index % 3 == 2 else _cars(numbers, split, index, rng)


def _rows(table, name: str, split: str):
    return table[[split_of_key(name, row) == split for row in range(len(table))]]


def _cars(numbers: Numbers, split: str, index: int, rng: np.random.Generator) -> Item:
    rising = index % 3 == 0
    across, up = (RISING if rising else FALLING)[int(rng.integers(3))]
    rows = _rows(numbers.cars, "car", split)
    rows = rows.sample(min(len(rows), int(rng.integers(18, 45))), random_state=int(rng.integers(2**31)))
    color = list(COLORS)[int(rng.integers(len(COLORS)))]
    grid = bool(rng.random() < 0.5)
    figure, axes = new_figure(0.17, 0.16, 0.79, 0.72)
    axes.scatter(rows[across], rows[up], s=9, color=COLORS[color], linewidths=0)
    _finish(figure, axes, TITLES[across], TITLES[up], grid)
    pairs = (
        Pair("What type of figure is this?", "Scatter plot", "figure type"),
        Pair(
            "Do the points rise or fall from left to right?", "They rise" if rising else "They fall", "trend of points"
        ),
        Pair("What colour are the points?", color.capitalize(), "point colour"),
        Pair("In how many colours are the points drawn?", "1", "number of point colours"),
        Pair("Are there grid lines?", yes_no(grid), "grid lines"),
    )
    caption = (
        f"A scatter plot of {TITLES[up].lower()} against {TITLES[across].lower()} with points in 1 colour, {color}, "
        f"that {'rise' if rising else 'fall'} from left to right, {'with' if grid else 'without'} grid lines."
    )
    return Item(
        f"scatter-{split}-{index:04d}",
        as_image(figure),
        DOCUMENTS,
        "cars-scatter",
        "chart",
        "CC0-1.0",
        split,
        caption,
        pairs,
        lossless=True,
    )


def _penguins(numbers: Numbers, split: str, index: int, rng: np.random.Generator) -> Item:
    count = 2 + index // 3 % 2
    species = list(rng.permutation(sorted(numbers.penguins["species"].unique()))[:count])
    columns = rng.permutation(["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"])[:2]
    table = _rows(numbers.penguins, "penguin", split)
    colors = [list(COLORS)[place] for place in rng.permutation(len(COLORS))[:count]]
    legend, grid = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    figure, axes = new_figure(0.17, 0.16, 0.79, 0.72)
    for name, color in zip(species, colors, strict=True):
        rows = table[table["species"] == name]
        rows = rows.sample(min(len(rows), int(rng.integers(10, 18))), random_state=int(rng.integers(2**31)))
        axes.scatter(rows[columns[0]], rows[columns[1]], s=9, color=COLORS[color], linewidths=0, label=name)
    if legend:
        axes.legend(fontsize=4.5, handlelength=0.8, borderpad=0.3, labelspacing=0.25, framealpha=0.9)
    across, up = (column.rsplit("_", 1)[0].replace("_", " ") for column in columns)
    _finish(figure, axes, across.capitalize(), up.capitalize(), grid)
    pairs = (
        Pair("What type of figure is this?", "Scatter plot", "figure type"),
        Pair("In how many colours are the points drawn?", str(count), "number of point colours"),
        Pair("Is there a legend?", yes_no(legend), "legend"),
        Pair("Are there grid lines?", yes_no(grid), "grid lines"),
    )
    caption = (
        f"A scatter plot of {up} against {across} with points in {count} colours, {' and '.join(colors)}, "
        f"{'with' if legend else 'without'} a legend and {'with' if grid else 'without'} grid lines."
    )
    return Item(
        f"scatter-{split}-{index:04d}",
        as_image(figure),
        DOCUMENTS,
        "penguins-scatter",
        "chart",
        "CC0-1.0",
        split,
        caption,
        pairs,
        lossless=True,
    )


def _finish(figure, axes, across: str, up: str, grid: bool) -> None:
    axes.set_xlabel(across, fontsize=6, labelpad=1)
    figure.text(0.5, 0.925, f"{up} by {across.lower()}", ha="center", fontsize=6.5)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if grid:
        axes.grid(linewidth=0.6, color="#a0a0a0")
