"""Pie charts of the population of some countries in a year, drawn by us."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tools.demo_assets.images.canvas import COLORS, as_image, new_figure
from tools.demo_assets.images.chart_numbers import Numbers
from tools.demo_assets.images.item import DOCUMENTS, Item, Pair, yes_no
from tools.demo_assets.images.splits import generator

COUNTS = {"train": 200, "val": 20, "test": 50}
SLICE_COLORS = {**COLORS, "yellow": "#f2d21b"}


def draw_pie_charts(numbers: Numbers) -> Iterator[Item]:
    """COUNTS charts with two to six slices."""
    for split, count in COUNTS.items():
        for index in range(count):
            yield _item(numbers, split, index)


def _item(numbers: Numbers, split: str, index: int) -> Item:
    rng = generator("pie", split, index)
    count, want_half = 2 + index // 2 % 5, index % 2 == 0
    countries = numbers.countries(split)
    for attempt in itertools.count():
        count = max(2, count - 1) if attempt and attempt % 3000 == 0 else count
        year = int(rng.choice(numbers.years(split)))
        chosen = rng.choice(countries, count, replace=False)
        values = np.array([numbers.value(name, year, "population") for name in chosen])
        shares = values / values.sum()
        ranked = np.sort(shares)
        apart = ranked[-1] - ranked[-2] > 0.08 and ranked[0] > 0.025 and ranked[1] - ranked[0] > 0.015
        if apart and (ranked[-1] > 0.55 if want_half or count == 2 else ranked[-1] < 0.45):
            break
    colors = [list(SLICE_COLORS)[place] for place in rng.permutation(len(SLICE_COLORS))[:count]]
    legend = bool(rng.random() < 0.5)
    figure, axes = new_figure(0.05, 0.02, 0.9, 0.88) if not legend else new_figure(0.0, 0.14, 0.68, 0.68)
    axes.pie(
        shares,
        colors=[SLICE_COLORS[color] for color in colors],
        startangle=float(rng.integers(360)),
        wedgeprops={"edgecolor": "white", "linewidth": 0.8},
    )
    if legend:
        axes.legend(chosen, fontsize=5, loc="center left", bbox_to_anchor=(0.95, 0.5), handlelength=0.8, borderpad=0.3)
    figure.text(0.5, 0.925, f"Population, {year}", ha="center", fontsize=7)
    largest, smallest = colors[int(shares.argmax())], colors[int(shares.argmin())]
    half = bool(ranked[-1] > 0.5)
    pairs = (
        Pair("What type of figure is this?", "Pie chart", "figure type"),
        Pair("How many slices does the pie have?", str(count), "number of slices"),
        Pair("What colour is the largest slice?", largest.capitalize(), "largest slice"),
        Pair("What colour is the smallest slice?", smallest.capitalize(), "smallest slice"),
        Pair("Does one slice take more than half of the pie?", yes_no(half), "more than half"),
        Pair("Is there a legend?", yes_no(legend), "legend"),
    )
    caption = (
        f"A pie chart with {count} slices ({', '.join(colors)}), {'with' if legend else 'without'} a legend; "
        f"the {largest} slice is the largest {'and takes more than half' if half else 'but takes less than half'}, "
        f"the {smallest} slice is the smallest."
    )
    return Item(
        f"pie-{split}-{index:04d}",
        as_image(figure),
        DOCUMENTS,
        "gapminder-pies",
        "chart",
        "CC-BY-2.0 (Gapminder)",
        split,
        caption,
        pairs,
        lossless=True,
    )
