"""Means of ways of training with their intervals, every seed faint beside them: a panel a domain or benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llava_moe.compare.comparison import by_seed
from llava_moe.grid.measured import Kind
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.inline_svg import STYLE, inline_svg

_MOST_COLUMNS = 4
_LETTERS = 110
"""Of a legend's line."""
_LABELS: dict[Kind, str] = {"loss": "nats a token (lower is better)", "accuracy": "% (higher is better)"}


def level_chart(
    results: Results, ways: Sequence[Ways], panels: Sequence[tuple[str, Sequence[str]]], kind: Kind, label: str
) -> str:
    """Dots with 95 % intervals over seeds and items, a color a way; each panel has its own scale, which need not begin
    at 0: what is looked for are differences.

    Args:
        panels: the title of each, and the domains or benchmarks whose mean it shows.
    """
    num_columns = min(_MOST_COLUMNS, len(panels))
    num_rows = -(-len(panels) // num_columns)
    with rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9}):
        figure = Figure(figsize=(8.4, 2.5 * num_rows + 0.25 * (1 + len(ways) // 4)), layout="constrained")
        grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
        for axes, (title, names) in zip(grid, panels, strict=False):
            for number, way in enumerate(ways):
                _draw(axes, results, way, kind, names, number)
            axes.set_title(title)
            axes.set_xticks([])
            axes.set_xlim(-0.6, len(ways) - 0.4)
            axes.margins(y=0.12)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[::num_columns]:
            axes.set_ylabel(_LABELS[kind])
        handles, told = grid[0].get_legend_handles_labels()
        figure.legend(handles, told, loc="outside lower center", ncols=legend_columns(told), frameon=False)
        return inline_svg(figure, label)


def legend_columns(names: Sequence[str]) -> int:
    """As many as fit beside each other."""
    return max(1, min(4, _LETTERS // (max(map(len, names), default=1) + 6)))


def _draw(axes: Axes, results: Results, way: Ways, kind: Kind, names: Sequence[str], number: int) -> None:
    color, scale = PALETTE[number % len(PALETTE)], 100.0 if kind == "accuracy" else 1.0
    marker = "o" if number < len(PALETTE) else "s"
    level = results.level(kind, names, **way.labels)
    if level is None:
        axes.errorbar([], [], [], color=color, marker=marker, linestyle="none", label=way.name)
        return
    seeds = [scale * value for value in by_seed(results, way, kind, names).values()]
    axes.plot([number + 0.22] * len(seeds), seeds, ".", color=color, alpha=0.7, markersize=4)
    low, high = (level.after, level.after) if level.effect is None else (level.effect.low, level.effect.high)
    ends = [[scale * max(0.0, level.after - low)], [scale * max(0.0, high - level.after)]]
    axes.errorbar([number], [scale * level.after], ends, color=color, marker=marker, linestyle="none", label=way.name)
