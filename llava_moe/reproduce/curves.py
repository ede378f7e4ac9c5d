"""Training loss by domain over the steps of every way of training: whether cells are long enough to have learned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from llava_moe.grid.results import Results
from llava_moe.pages.content import Picture
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.inline_svg import STYLE, inline_svg


def curve_picture(
    results: Results, domains: Sequence[str], names: Mapping[tuple[tuple[str, object], ...], str]
) -> Picture | None:
    """A panel a domain, a line a way of training, the mean over seeds; None where nothing was measured.

    Args:
        names: labels without the seed -> how a page calls them; ways that are not there are left out.
    """
    curves = defaultdict(list)
    for cell in results.cells:
        labels = tuple(sorted((name, value) for name, value in cell.labels.items() if name != "seed"))
        if cell.name in results.measured and labels in names:
            for domain, points in results.measured[cell.name].curve.items():
                curves[domain, names[labels]].append(points)
    shown = [domain for domain in domains if any(one == domain for one, _ in curves)]
    if not shown:
        return None
    ways = list(dict.fromkeys(name for name in names.values() if any(one == name for _, one in curves)))
    with rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9, "lines.linewidth": 1.4}):
        figure = Figure(figsize=(8.4, 2.9 + 0.2 * (len(ways) // 3)), layout="constrained")
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, domain in zip(panels, shown, strict=True):
            for number, way in enumerate(ways):
                runs = curves.get((domain, way), [])
                # Seeds differ in which steps had a record of the domain at the end of a log; what all have is drawn.
                length = min((len(points) for points in runs), default=0)
                style = {"color": PALETTE[number % len(PALETTE)], "linestyle": "--" if number >= len(PALETTE) else "-"}
                mean = np.mean([points[:length] for points in runs], axis=0) if length else np.empty((0, 2))
                axes.plot(mean[:, 0], mean[:, 1], label=way, **style)
            axes.set_title(domain)
            axes.set_xlabel("step")
        panels[0].set_ylabel("training loss, nats a token")
        panels[0].set_ylim(bottom=0)
        handles, labels_of_lines = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels_of_lines, loc="outside lower center", ncols=3, frameon=False)
        drawing = inline_svg(figure, "Training loss by domain")
    return Picture("curves", drawing, "Training loss of each domain over the steps, the mean over seeds.")
