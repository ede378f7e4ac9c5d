"""Training loss of every run in one picture: smoothed, what was measured faint behind it, a color a way.

Shape suffixes: S steps of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llava_moe.compare.comparison import Comparison
from llava_moe.compare.levels import legend_columns
from llava_moe.pages.content import Picture
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.inline_svg import STYLE, inline_svg
from llava_moe.train.stage_log import StageLog

ALL = "all domains"
_MOST_PANELS = 4
_MOST_POINTS = 150
_WIDTH = 0.05
"""Of a run's length: the standard deviation of the bell that smooths."""
_FIRST = 0.25
"""Of a run's length, which does not decide the height of the frame: the bell carries the first losses into it."""

_FAINT = 0.3
"""Of what each step measured: less is lost on a dark page."""


@dataclass(frozen=True)
class Line:
    """One run's loss over its steps, [S]; ``weights_S`` are supervised tokens, 0 where there was no loss."""

    steps_S: np.ndarray
    losses_S: np.ndarray
    weights_S: np.ndarray

    def smoothed_S(self) -> np.ndarray:
        """The mean under a bell over neighboring steps, by supervised tokens; NaN where it holds none."""
        width = max(1.0, _WIDTH * len(self.steps_S))
        reach = min(int(np.ceil(3 * width)), len(self.steps_S) - 1)
        bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
        sums, weights = (
            np.convolve(one, bell)[reach : reach + len(one)] for one in (self.losses_S * self.weights_S, self.weights_S)
        )
        return np.divide(sums, weights, out=np.full(len(sums), np.nan), where=weights > 1e-9)


def curve_picture(comparison: Comparison, logs: Mapping[str, Sequence[StageLog]]) -> Picture | None:
    """A panel of all domains, and one of each where they are few; None where nothing was logged.

    Args:
        logs: way's name to its runs.
    """
    panels = [ALL, *comparison.domains] if 1 < len(comparison.domains) <= _MOST_PANELS else [ALL]
    lines = {
        (name, panel): [line for log in own if len((line := line_of(log, panel)).steps_S)]
        for name, own in logs.items()
        for panel in panels
    }
    if not any(lines.values()):
        return None
    num_columns = min(2, len(panels))
    num_rows = -(-len(panels) // num_columns)
    with rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9}):
        figure = Figure(figsize=(8.4, 2.7 * num_rows + 0.25 * (1 + len(logs) // 4)), layout="constrained")
        grid = figure.subplots(num_rows, num_columns, sharex=True, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            for number, name in enumerate(logs):
                _draw(axes, lines[name, panel], number, name)
            frame(axes, [line for name in logs for line in lines[name, panel]])
            axes.set_title(panel)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[::num_columns]:
            axes.set_ylabel("training loss, nats a token")
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=legend_columns(names), frameon=False)
        drawing = inline_svg(figure, "Training loss of every run")
    caption = (
        "Every run's training loss, smoothed; faint behind it what each step measured. A color is a way of training, "
        f"a line a seed. The first {_FIRST:.0%} of the steps do not decide the frame and may begin above it."
    )
    return Picture("curves", drawing, caption)


def line_of(log: StageLog, panel: str) -> Line:
    """A run's loss over its steps, of one domain or of all."""
    places, losses, weights = [], [], []
    for step in log.steps:
        told: Mapping[str, Any] = step if panel == ALL else step.get("domains", {}).get(panel, {})
        if told.get("loss") is not None and told.get("supervised_tokens"):
            places.append(step["step"])
            losses.append(told["loss"])
            weights.append(told["supervised_tokens"])
    return Line(np.array(places, dtype=float), np.array(losses, dtype=float), np.array(weights, dtype=float))


def _draw(axes: Axes, lines: Sequence[Line], number: int, name: str) -> None:
    style: dict[str, Any] = {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": "--" if number >= len(PALETTE) else "-",
    }
    for place, line in enumerate(lines):
        shown = _thinned(line)
        axes.plot(shown.steps_S, shown.losses_S, linewidth=0.8, alpha=_FAINT, zorder=1.5, **style)
        every = slice(None, None, max(1, len(line.steps_S) // _MOST_POINTS))
        axes.plot(
            line.steps_S[every], line.smoothed_S()[every], linewidth=1.4, label=name if place == 0 else None, **style
        )
    if not lines:
        axes.plot([], [], label=name, **style)


def _thinned(line: Line) -> Line:
    """At most some points of a long run, means of neighbors."""
    size = -(-len(line.steps_S) // _MOST_POINTS)
    if size == 1:
        return line
    starts = np.arange(0, len(line.steps_S), size)
    weights = np.add.reduceat(line.weights_S, starts)
    counts = np.diff([*starts, len(line.steps_S)])
    return Line(
        np.add.reduceat(line.steps_S, starts) / counts,
        np.add.reduceat(line.losses_S * line.weights_S, starts) / weights,
        weights,
    )


def frame(axes: Axes, lines: Sequence[Line]) -> None:
    """Fit the panel to the smoothed lines behind their first steps."""
    late = [line.smoothed_S()[line.steps_S >= _FIRST * line.steps_S[-1]] for line in lines]
    values = np.concatenate(late) if late else np.empty(0)
    values = values[np.isfinite(values)]
    if len(values):
        margin = 0.35 * (values.max() - values.min()) or 0.1
        axes.set_ylim(max(0.0, float(values.min() - margin)), float(values.max() + margin))
