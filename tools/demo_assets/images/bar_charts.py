"""Bar charts of real numbers, drawn by us so that order, colour and count are known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tools.demo_assets.images.canvas import COLORS, ORDINALS, as_image, new_figure, ordered_for
from tools.demo_assets.images.chart_numbers import MEASURES, Numbers
from tools.demo_assets.images.item import DOCUMENTS, Item, Pair, yes_no
from tools.demo_assets.images.splits import generator

COUNTS = {"train": 900, "val": 60, "test": 130}


def draw_bar_charts(numbers: Numbers) -> Iterator[Item]:
    """COUNTS charts, half with vertical and half with horizontal bars."""
    for split, count in COUNTS.items():
        for index in range(count):
            yield _item(numbers, split, index)


def _choose(
    numbers: Numbers, split: str, index: int, rng: np.random.Generator
) -> tuple[str, int, list[str], np.ndarray]:
    """Countries and values whose largest, smallest, first and last are clearly apart.

    The place of the largest is dealt evenly.
    """
    measure = list(MEASURES)[index // 2 % 3]
    count = 3 + index // 6 % 4
    countries = numbers.countries(split)
    for attempt in itertools.count():
        count = max(3, count - 1) if attempt and attempt % 3000 == 0 else count
        year = int(rng.choice(numbers.years(split)))
        chosen = rng.choice(countries, count, replace=False)
        values = np.array([numbers.value(name, year, MEASURES[measure]) for name in chosen])
        ranked = np.sort(values)
        gap = 0.06 * ranked[-1]
        if ranked[0] < 0.04 * ranked[-1] or ranked[-1] - ranked[-2] < gap or ranked[1] - ranked[0] < gap:
            continue
        order = ordered_for(values, int(rng.integers(count)), rng)
        values, chosen = values[order], chosen[order]
        if abs(values[0] - values[-1]) > gap:
            return measure, year, [str(name) for name in chosen], values
    raise AssertionError("unreachable")


def _item(numbers: Numbers, split: str, index: int) -> Item:
    rng = generator("bar", split, index)
    measure, year, countries, values = _choose(numbers, split, index, rng)
    color = list(COLORS)[int(rng.integers(len(COLORS)))]
    vertical, grid = index % 2 == 0, bool(rng.random() < 0.5)
    figure, axes = new_figure(*((0.15, 0.25, 0.82, 0.63) if vertical else (0.31, 0.09, 0.64, 0.79)))
    axes.set_axisbelow(True)
    places = np.arange(len(values))
    if vertical:
        axes.bar(places, values, color=COLORS[color], width=0.7)
        axes.set_xticks(places, countries, rotation=35, ha="right", rotation_mode="anchor")
    else:
        axes.barh(places, values, color=COLORS[color], height=0.7)
        axes.set_yticks(places, countries)
        axes.invert_yaxis()
    if grid:
        axes.grid(axis="y" if vertical else "x", linewidth=0.6, color="#909090")
    figure.text(0.5, 0.925, f"{measure}, {year}", ha="center", fontsize=7)
    side, kind = ("left", "Vertical bar chart") if vertical else ("top", "Horizontal bar chart")
    longest, shortest = ORDINALS[int(values.argmax())], ORDINALS[int(values.argmin())]
    pairs = [
        Pair("What type of figure is this?", kind, "figure type"),
        Pair("What colour are the bars?", color.capitalize(), "bar colour"),
        Pair("How many bars are there?", str(len(values)), "number of bars"),
        Pair(f"Which bar is the longest, counting from the {side}?", longest, "longest bar"),
        Pair(f"Which bar is the shortest, counting from the {side}?", shortest, "shortest bar"),
        Pair("Is the first bar longer than the last bar?", yes_no(values[0] > values[-1]), "first or last bar"),
        Pair("What does the chart measure?", measure, "measure"),
        Pair("Are there grid lines?", yes_no(grid), "grid lines"),
    ]
    if rng.random() < 0.3:
        pairs.append(Pair("Which year does the title give?", str(year), "read year", closed=False))
    elif rng.random() < 0.4:
        pairs.append(
            Pair("How large is the longest bar?", f"{float(f'{values.max():.2g}'):g}", "read value", closed=False)
        )
    order = "longer" if values[0] > values[-1] else "shorter"
    caption = (
        f"A {kind.lower()} of {measure.lower()} with {len(values)} {color} bars, "
        f"{'with' if grid else 'without'} grid lines; counting from the {side}, the {longest.lower()} bar is "
        f"the longest and the {shortest.lower()} the shortest, and the first is {order} than the last."
    )
    return Item(
        f"bar-{split}-{index:04d}",
        as_image(figure),
        DOCUMENTS,
        "gapminder-bars",
        "chart",
        "CC-BY-2.0 (Gapminder)",
        split,
        caption,
        tuple(pairs),
        lossless=True,
    )
