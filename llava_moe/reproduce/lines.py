"""Lines over a size that is varied (a rank, a number of experts, parameters): a panel a domain and measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from llava_moe.grid.measured import KINDS, Compared, Kind
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways, size_of
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.inline_svg import INK, STYLE, inline_svg

_TITLES: dict[Kind, str] = {"accuracy": "accuracy, %", "loss": "held-out loss, nats a token"}
_SHIFT, _SMALL_SHIFT = 0.06, 0.01
"""Of a place, by which a line stands aside of the one before, so that their intervals are told apart; the small one
where places are compared."""
_FEW_SIZES = 6


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        points: each way of training with its size; a single one without a size is a level across the panel.
        domains: whose panels it stands in; empty: all.
    """

    name: str
    points: Sequence[tuple[float | None, Ways]]
    domains: Sequence[str] = ()


def line_chart(results: Results, curves: Sequence[Curve], domains: Sequence[str], axis: str, label: str) -> str:
    """Means with 95 % intervals over seeds and items, over a logarithmic axis; "" without a point.

    Args:
        axis: what the horizontal one counts.
    """
    kinds = [kind for kind in KINDS if any(_levels(results, one, kind, domain) for one in curves for domain in domains)]
    if not kinds:
        return ""
    sizes = sorted({size for curve in curves for size, _ in curve.points if size is not None})
    is_few = len(sizes) <= _FEW_SIZES
    aside = _SHIFT if is_few else _SMALL_SHIFT
    with rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9, "lines.linewidth": 1.4}):
        figure = Figure(figsize=(8.4, 2.5 * len(kinds) + 0.25 * (1 + len(curves) // 3)), layout="constrained")
        grid = figure.subplots(len(kinds), len(domains), sharex=True, sharey="row", squeeze=False)
        for row, kind in zip(grid, kinds, strict=True):
            for axes, domain in zip(row, domains, strict=True):
                for number, curve in enumerate(curves):
                    shift = 1 + aside * (number - (len(curves) - 1) / 2)
                    _draw(axes, curve, _levels(results, curve, kind, domain), kind, number, shift)
                axes.set_title(f"{domain}: {_TITLES[kind]}")
                axes.set_xscale("log")
        for axes in grid[-1]:
            axes.set_xlabel(axis)
            if is_few:
                axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
                axes.set_xticks([], minor=True)
            else:
                # Its own labels of powers are formulas, which a drawing with text as text shows as they are written.
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
        return inline_svg(figure, label)


def by_parameters(results: Results, curves: Sequence[Curve]) -> list[Curve]:
    """The same lines over the trainable parameters of each point; levels stay, points that are not there go."""
    moved = []
    for curve in curves:
        sized = [(None if size is None else size_of(results, way)[0], size, way) for size, way in curve.points]
        points = [(now, way) for now, size, way in sized if size is None or now is not None]
        moved.append(Curve(curve.name, points, curve.domains))
    return moved


def _levels(results: Results, curve: Curve, kind: Kind, domain: str) -> list[tuple[float | None, Compared]]:
    if curve.domains and domain not in curve.domains:
        return []
    levels = [(size, results.level(kind, [domain], **way.labels)) for size, way in curve.points]
    return [(size, level) for size, level in levels if level is not None]


def _draw(
    axes: Axes, curve: Curve, levels: Sequence[tuple[float | None, Compared]], kind: Kind, number: int, shift: float
) -> None:
    color, scale = PALETTE[number % len(PALETTE)], 100.0 if kind == "accuracy" else 1.0
    if [size for size, _ in curve.points] == [None]:
        style: dict[str, Any] = {"color": INK, "linestyle": ("--", ":", "-.")[number % 3], "linewidth": 1.1}
        axes.plot([], [], label=curve.name, **style)  # for the legend, whichever panel it stands in
        for _, level in levels:
            axes.axhline(scale * level.after, **style)
        return
    places = np.array([size for size, _ in levels], dtype=float) * shift
    values = scale * np.array([level.after for _, level in levels])
    ends = [
        (level.after, level.after) if level.effect is None else (level.effect.low, level.effect.high)
        for _, level in levels
    ]
    lows, highs = scale * np.array(ends, dtype=float).reshape(-1, 2).T
    errors = np.maximum([values - lows, highs - values], 0.0)
    axes.errorbar(places, values, errors, color=color, marker="o", markersize=3.5, elinewidth=0.9, label=curve.name)
