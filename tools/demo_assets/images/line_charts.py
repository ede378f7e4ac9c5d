"""Line charts of real series, drawn by us."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from matplotlib.ticker import MaxNLocator

from tools.demo_assets.images.canvas import COLORS, as_image, new_figure
from tools.demo_assets.images.chart_numbers import FIRST_YEAR, MEASURES, Numbers
from tools.demo_assets.images.item import DOCUMENTS, Item, Pair, yes_no
from tools.demo_assets.images.splits import generator

COUNTS = {"train": 560, "val": 50, "test": 110}
# Monthly unemployment: whole years are held out, so no month is in two splits.
UNEMPLOYMENT_YEARS = {"train": (1948, 1988), "val": (1990, 1995), "test": (1997, 2012)}


def draw_line_charts(numbers: Numbers) -> Iterator[Item]:
    """COUNTS charts, half with one line and half with two to four."""
    for split, count in COUNTS.items():
        for index in range(count):
            yield _item(numbers, split, index)


def _one_series(
    numbers: Numbers, split: str, falling: bool, rng: np.random.Generator
) -> tuple[str, str, np.ndarray, np.ndarray]:
    """A series that clearly falls or rises: a country's measure over time, or two to four years of unemployment."""
    while True:
        if rng.random() < 0.5:
            measure = list(MEASURES)[int(rng.integers(3))]
            country = str(rng.choice(numbers.countries(split)))
            start, length = int(rng.integers(0, 25)), int(rng.integers(12, 25))
            values = numbers.series(country, MEASURES[measure])[start : start + length]
            years, title = FIRST_YEAR + start + np.arange(len(values), dtype=float), measure
            source = "gapminder-lines"
        else:
            low, high = UNEMPLOYMENT_YEARS[split]
            length = int(rng.integers(2, 5))
            first = int(rng.integers(low, high - length + 2))
            table = numbers.unemployment.loc[first : first + length - 1].drop(columns="Annual")
            values = table.to_numpy(float).reshape(-1)
            years, title, source = first + np.arange(len(values)) / 12, "Unemployment", "unemployment-lines"
        change = (values[-1] - values[0]) / max(1e-9, values.max() - values.min())
        if len(values) > 8 and (change < -0.35 if falling else change > 0.35):
            return source, title, years, values


def _item(numbers: Numbers, split: str, index: int) -> Item:
    rng = generator("line", split, index)
    return _single(numbers, split, index, rng) if index % 2 else _several(numbers, split, index, rng)


def _single(numbers: Numbers, split: str, index: int, rng: np.random.Generator) -> Item:
    falling = index // 2 % 2 == 0
    source, title, years, values = _one_series(numbers, split, falling, rng)
    color = list(COLORS)[int(rng.integers(len(COLORS)))]
    grid = bool(rng.random() < 0.5)
    figure, axes = new_figure(0.18, 0.1, 0.78, 0.78)
    axes.plot(years, values, color=COLORS[color], linewidth=1.6)
    _finish(figure, axes, title, grid)
    direction = "It falls" if falling else "It rises"
    place = int(np.argmax(values)) / (len(values) - 1)
    where = (
        "On the left"
        if place < 0.3
        else "On the right"
        if place > 0.7
        else "In the middle"
        if 0.38 < place < 0.62
        else None
    )
    pairs = [
        Pair("What type of figure is this?", "Line chart", "figure type"),
        Pair("How many lines are drawn?", "1", "number of lines"),
        Pair("Does the line rise or fall from its start to its end?", direction, "rise or fall"),
        Pair("What colour is the line?", color.capitalize(), "line colour"),
        Pair("What does the chart measure?", title, "measure"),
        Pair("Are there grid lines?", yes_no(grid), "grid lines"),
    ]
    if where:
        pairs.append(Pair("Where is the highest point of the line?", where, "highest point"))
    caption = (
        f"A line chart of {title.lower()} with 1 {color} line that {'falls' if falling else 'rises'} "
        "from its start to its end"
        f"{', highest ' + where.lower() if where else ''}, {'with' if grid else 'without'} grid lines."
    )
    licence = (
        "CC-BY-2.0 (Gapminder)" if source == "gapminder-lines" else "public domain (U.S. Bureau of Labor Statistics)"
    )
    return Item(
        f"line-{split}-{index:04d}",
        as_image(figure),
        DOCUMENTS,
        source,
        "chart",
        licence,
        split,
        caption,
        tuple(pairs),
        lossless=True,
    )


def _several(numbers: Numbers, split: str, index: int, rng: np.random.Generator) -> Item:
    count = 2 + index // 2 % 3
    measure = list(MEASURES)[index // 6 % 3]
    countries = numbers.countries(split)
    for attempt in itertools.count():
        count = max(2, count - 1) if attempt and attempt % 3000 == 0 else count
        chosen = rng.choice(countries, count, replace=False)
        series = [numbers.series(name, MEASURES[measure]) for name in chosen]
        ends = np.sort([values[-1] for values in series])
        span = max(values.max() for values in series) - min(values.min() for values in series)
        if np.diff(ends).min() > 0.09 * span:
            break
    colors = [list(COLORS)[place] for place in rng.permutation(len(COLORS))[:count]]
    legend, grid = index // 2 % 2 == 0, bool(rng.random() < 0.5)
    figure, axes = new_figure(0.18, 0.1, 0.78, 0.78)
    for name, values, color in zip(chosen, series, colors, strict=True):
        axes.plot(FIRST_YEAR + np.arange(len(values)), values, color=COLORS[color], linewidth=1.6, label=name)
    if legend:
        axes.legend(fontsize=4.5, handlelength=1.2, borderpad=0.3, labelspacing=0.25, loc="best", framealpha=0.9)
    _finish(figure, axes, measure, grid)
    last = [values[-1] for values in series]
    highest, lowest = colors[int(np.argmax(last))], colors[int(np.argmin(last))]
    pairs = (
        Pair("What type of figure is this?", "Line chart", "figure type"),
        Pair("How many lines are drawn?", str(count), "number of lines"),
        Pair("Which colour is the line that ends highest?", highest.capitalize(), "highest line"),
        Pair("Which colour is the line that ends lowest?", lowest.capitalize(), "lowest line"),
        Pair("Is there a legend?", yes_no(legend), "legend"),
        Pair("What does the chart measure?", measure, "measure"),
        Pair("Are there grid lines?", yes_no(grid), "grid lines"),
    )
    caption = (
        f"A line chart of {measure.lower()} with {count} lines ({', '.join(colors)}), "
        f"{'with' if legend else 'without'} a legend and {'with' if grid else 'without'} grid lines; "
        f"the {highest} line ends highest and the {lowest} line ends lowest."
    )
    return Item(
        f"line-{split}-{index:04d}",
        as_image(figure),
        DOCUMENTS,
        "gapminder-lines",
        "chart",
        "CC-BY-2.0 (Gapminder)",
        split,
        caption,
        pairs,
        lossless=True,
    )


def _finish(figure, axes, title: str, grid: bool) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if grid:
        axes.grid(linewidth=0.6, color="#a0a0a0")
    figure.text(0.5, 0.925, title, ha="center", fontsize=7)
