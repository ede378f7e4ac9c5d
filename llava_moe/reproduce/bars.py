"""Bars of domains by models, with intervals: a panel a measure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from llava_moe.grid.in_words import MEASURES, interval
from llava_moe.grid.measured import KINDS, Kind
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Table
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.inline_svg import INK, STYLE, inline_svg

_TITLES: dict[Kind, str] = {
    "accuracy": "accuracy on questions, % (higher is better)",
    "loss": "held-out loss, nats a token (lower is better)",
}


def bar_chart(results: Results, ways: Sequence[Ways], domains: Sequence[str], label: str) -> str:
    """A group of bars a domain, a bar a way of training, 95 % intervals over seeds and items; "" without cells."""
    kinds = [kind for kind in KINDS if any(results.level(kind, [domains[0]], **way.labels) for way in ways)]
    if not kinds:
        return ""
    width = 0.8 / len(ways)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.9 * len(kinds) + 0.35 * (1 + len(ways) // 3)), layout="constrained")
        panels = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
        for axes, kind in zip(panels, kinds, strict=True):
            scale = 100.0 if kind == "accuracy" else 1.0
            for number, way in enumerate(ways):
                color = PALETTE[number % len(PALETTE)]
                hatch = "///" if number >= len(PALETTE) else None
                axes.bar(0, 0, width=0, color=color, hatch=hatch, label=way.name)  # for the legend
                for place, domain in enumerate(domains):
                    level = results.level(kind, [domain], **way.labels)
                    if level is None:
                        continue
                    at = place + (number - (len(ways) - 1) / 2) * width
                    axes.bar(at, scale * level.after, width=0.92 * width, color=color, hatch=hatch)
                    if level.effect is not None:
                        ends = [scale * level.effect.low, scale * level.effect.high]
                        axes.plot([at, at], ends, color=INK, linewidth=1.0)
            axes.set_xticks(range(len(domains)), domains)
            axes.set_title(_TITLES[kind])
            axes.margins(x=0.02)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
        return inline_svg(figure, label)


def level_table(results: Results, ways: Sequence[Ways], domains: Sequence[str], kind: Kind, title: str = "") -> Table:
    """How each way of training does on each domain, with intervals."""
    rows = []
    for way in ways:
        levels = [results.level(kind, [domain], **way.labels) for domain in domains]
        seeds = max((len(level.seeds) for level in levels if level is not None), default=0)
        cells = ["\N{EN DASH}" if level is None else interval(level, has_sign=False) for level in levels]
        rows.append((way.name, *cells, str(seeds)))
    unit = "%" if kind == "accuracy" else "nats a token"
    what = f"{title}: {MEASURES[kind]}" if title else MEASURES[kind]
    return Table(f"{what}, {unit}; 95 % intervals over seeds and items", ("", *domains, "seeds"), tuple(rows))
