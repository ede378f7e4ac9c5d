"""The effects of one question as points with their intervals, a row a domain and rank, loss beside accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llava_moe.pages.domain_colors import colors_of
from llava_moe.pages.inline_svg import INK, STYLE, inline_svg
from studies.conflict.contrasts import MEASURES, Contrast

_TITLES = {
    "loss": "held-out loss, nats a token (left is better)",
    "accuracy": "closed accuracy, points (right is better)",
}


def effect_chart(rows: Sequence[Contrast], label: str) -> str:
    """An SVG; filled points stand after Holm."""
    places = list(dict.fromkeys((row.domain or "", row.rank) for row in rows))
    colors = colors_of({domain for domain, _ in places})
    with rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(7.6, 0.9 + 0.27 * len(places)), layout="constrained")
        panels = figure.subplots(1, len(MEASURES), sharey=True)
        for axes, measure in zip(panels, MEASURES, strict=True):
            scale = 1.0 if measure == "loss" else 100.0
            axes.axvline(0, color=INK, linewidth=0.9, alpha=0.6)
            for row in rows:
                if row.measure == measure:
                    at, effect, color = places.index((row.domain or "", row.rank)), row.effect, colors[row.domain or ""]
                    axes.plot([scale * effect.low, scale * effect.high], [at, at], color=color)
                    face = color if row.stands else "none"
                    axes.plot(scale * effect.value, at, "o", color=color, markerfacecolor=face, markersize=6)
            axes.set_title(_TITLES[measure])
            axes.xaxis.set_major_locator(MaxNLocator(5))  # as many as -0.005 leaves room for
        panels[0].set_yticks(range(len(places)), [f"{domain}, r={rank}" for domain, rank in places])
        panels[0].invert_yaxis()
        return inline_svg(figure, label)
