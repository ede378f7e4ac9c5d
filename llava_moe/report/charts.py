"""Charts of the report, drawn by matplotlib as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llava_moe.eval.benchmark import BenchmarkResult, Measure
from llava_moe.eval.results.stage_scores import BLIND, StageScores
from llava_moe.pages.inline_svg import INK, STYLE, inline_svg
from llava_moe.text.escape_control import visible
from llava_moe.train.stage_log import StageLog

_MOST_POINTS = 160
_MOST_LETTERS = 90
"""Of all the names below a chart's bars together."""


def loss_chart(stage: StageLog, colors: Mapping[str, str]) -> str:
    """Cross-entropy per supervised token over the steps, a line a domain, held-out records dotted; "" without steps.

    The page has the legend: names of any length and script fold there.
    """
    if not stage.steps:
        return ""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9))
        axes = figure.add_subplot()
        for domain in stage.domains:
            points = _bin(stage.steps, _domain_loss(domain))
            axes.plot(*points, color=colors[domain])
            held_out = [
                (one["step"], one["domains"][domain]["loss"])
                for one in stage.validations
                if one.get("domains", {}).get(domain, {}).get("loss") is not None
            ]
            if held_out:
                axes.plot(*zip(*held_out, strict=True), color=colors[domain], linestyle=":", marker="o", markersize=4)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats per answer token")
        axes.set_ylim(bottom=0)
        _place_beside(figure, [axes], above=8, below=36, left=18)
        return inline_svg(figure, f"Loss by domain, stage {stage.name}")


def step_charts(stage: StageLog) -> str:
    """Learning rate, gradient norm, load-balance loss and speed over the steps, side by side and small."""
    panels: list[tuple[str, Callable[[Mapping[str, Any]], tuple[float, float]]]] = [
        ("learning rate", _plain("learning_rate")),
        ("gradient norm", _plain("grad_norm")),
    ]
    if any(step.get("experts") for step in stage.steps):
        panels.append(("load-balance loss", _plain("load_balance_loss")))
    panels.append(("tokens per second", _plain("tokens_per_second")))
    if not stage.steps:
        return ""
    with rc_context(STYLE | {"font.size": 8.5, "axes.titlesize": 8.5, "lines.linewidth": 1.3}):
        figure = Figure(figsize=(7.2, 1.5))
        drawn = []
        for place, (title, value) in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            axes.plot(*_bin(stage.steps, value), color=INK, alpha=0.75)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_label_coords(0, 0)  # No label to seek a place for, again and again.
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
            # Above the power of ten, if there is one; matplotlib would measure all numbers to find the place.
            axes.set_title(title, y=1.0, pad=18 if _numbers(axes.yaxis)[1] else 6)
            drawn.append(axes)
        # A line more where the steps have an offset.
        _place_beside(figure, drawn, above=18, below=30 if _numbers(drawn[0].xaxis)[1] else 20, left=3)
        return inline_svg(figure, f"Learning rate, gradient norm and speed, stage {stage.name}")


def score_chart(result: BenchmarkResult, colors: Mapping[str, str], stages: StageScores | None = None) -> str:
    """Exact match by domain, a bar each: the right image, another image, the majority answer.

    Args:
        stages: the earlier stages and the base without a picture have bars too, where these were asked.
    """
    if not {*_BARS} & {*result.columns}:
        return ""
    bars = _bars(result, stages)
    domains = [domain for domain in result.domains if all(domain in measures for _, measures in bars)]
    if not domains:
        return ""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        axes = figure.add_subplot()
        width = min(0.26, 0.9 / len(bars))
        for index, (label, measures) in enumerate(bars):
            for place, domain in enumerate(domains):
                ink = colors.get(domain, INK) if index == 0 else INK
                alpha = 1.0 if index == 0 else 0.45 - 0.23 * (index - 1) / max(1, len(bars) - 2)
                at = place + (index - (len(bars) - 1) / 2) * width
                _draw_bar(axes, at, width, measures[domain], label, ink, alpha)
        room = max(6, _MOST_LETTERS // len(domains))
        axes.set_xticks(range(len(domains)), [_shortened(domain, room) for domain in domains])
        axes.tick_params(axis="x", length=0, pad=16)
        axes.set_ylim(0, 108)
        axes.set_ylabel("exact match, %")
        return inline_svg(figure, "Exact match by domain with its baselines")


_BARS = {"exact_match": "right image", "other_image": "other", "majority_answer": "majority"}


def _bars(result: BenchmarkResult, stages: StageScores | None) -> list[tuple[str, Mapping[str, Measure]]]:
    """What a bar is called, and its height in each domain."""
    rows = [result.row(domain) for domain in result.domains]
    labels = _BARS if "other_image" in result.columns else _BARS | {"exact_match": "exact match"}
    bars: list[tuple[str, Mapping[str, Measure]]] = [
        (label, {row.domain: row.measures[name] for row in rows if name in row.measures})
        for name, label in labels.items()
        if name in result.columns
    ]
    if stages is None:
        return bars
    lines = {name: stages.line(name) for name in (*stages.earlier[::-1], BLIND)}
    short = {BLIND: "blind"} | {name: f"stage {_number(name)}" for name in stages.earlier}
    before = [(short[name], line.measures) for name, line in lines.items() if line is not None]
    bars[0] = (f"stage {_number(stages.final)}" if stages.earlier else bars[0][0], bars[0][1])
    return [*bars[:1], *before, *bars[1:]]


def _number(name: str) -> str:
    """``1`` of ``after 1-pretrain``."""
    return name.removeprefix("after ").partition("-")[0]


def _draw_bar(axes: Axes, at: float, width: float, measure: Measure, label: str, ink: str, alpha: float) -> None:
    """A bar with its interval, its value above and its name below."""
    axes.bar(at, 100 * measure.value, width * 0.9, color=ink, alpha=alpha, linewidth=0)
    if measure.low is not None and measure.high is not None:
        ends = [[100 * (measure.value - measure.low)], [100 * (measure.high - measure.value)]]
        axes.errorbar(at, 100 * measure.value, ends, color=INK, linewidth=0.9)
    top = 100 * (measure.high if measure.high is not None else measure.value)
    axes.text(at, top + 1.5, f"{100 * measure.value:.0f}", ha="center", va="bottom", fontsize=9)
    axes.text(at, -3, label, ha="center", va="top", fontsize=8 if width > 0.2 else 6.5, alpha=0.8)


def _place_beside(figure: Figure, panels: Sequence[Axes], *, above: float, below: float, left: float) -> None:
    """Give all panels one width, and room for the numbers at their axes, whose letters have known widths.

    matplotlib's own layout measures all text twice, which takes nearly as long as to draw the chart.

    Args:
        figure: what the panels are of, from left to right.
        panels: drawn; their limits are final.
        above: points between a panel and the figure's edge, without a line for powers of ten.
        below: the same below.
        left: points on the left of a panel's numbers.
    """
    width, height = (72 * inches for inches in figure.get_size_inches())
    size = rcParams["font.size"]
    letter = 0.64 * size  # A digit of DejaVu Sans; a sign is wider by a third, a point narrower by half.
    above += 1.2 * size * any(_numbers(axes.yaxis)[1] for axes in panels)
    # How many numbers stand at an axis hangs on its length.
    figure.subplots_adjust(bottom=below / height, top=1 - above / height)
    before = [left + letter * _numbers(axes.yaxis)[0] + _TICK for axes in panels]
    after = [letter * _numbers(axes.xaxis)[0] / 2 + 3 for axes in panels]
    each = (width - sum(before) - sum(after)) / len(panels)
    start = 0.0
    for axes, room_before, room_after in zip(panels, before, after, strict=True):
        place = ((start + room_before) / width, below / height, each / width, 1 - (above + below) / height)
        axes.set_position(place)
        start += room_before + each + room_after


_TICK = 8
"""Points from an axis to its numbers, with what a sign is wider than a digit."""


def _numbers(axis: Axis) -> tuple[float, str]:
    """How many digits wide the longest number at an axis is, and the power of ten or offset at its end."""
    formatter = axis.get_major_formatter()
    numbers = formatter.format_ticks([*map(float, axis.get_majorticklocs())])
    return max((len(number) - 0.5 * number.count(".") for number in numbers), default=0), formatter.get_offset()


def _plain(field: str) -> Callable[[Mapping[str, Any]], tuple[float, float]]:
    return lambda step: _weighed(step.get(field, 0.0), 1.0)


def _domain_loss(domain: str) -> Callable[[Mapping[str, Any]], tuple[float, float]]:
    def value(step: Mapping[str, Any]) -> tuple[float, float]:
        ledger = step.get("domains", {}).get(domain, {})
        return _weighed(ledger.get("loss", 0.0), float(ledger.get("supervised_tokens", 0)))

    return value


def _weighed(value: float | None, weight: float) -> tuple[float, float]:
    """A value with its weight; a null, which stands for a number that was not finite, has none."""
    return (0.0, 0.0) if value is None else (float(value), weight)


def _bin(
    steps: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """At most 160 points: the weighted mean of ``value(step) -> (value, weight)`` over neighbouring steps."""
    size = -(-len(steps) // _MOST_POINTS)
    places, means = [], []
    for start in range(0, len(steps), size):
        chunk = steps[start : start + size]
        pairs = [value(step) for step in chunk]
        weight = sum(weight for _, weight in pairs)
        if weight > 0:
            places.append(sum(float(step["step"]) for step in chunk) / len(chunk))
            means.append(sum(one * of_one for one, of_one in pairs if of_one > 0) / weight)
    return places, means


def _shortened(name: str, room: int) -> str:
    """A name on one line of at most ``room`` letters, an ellipsis where some are missing."""
    shown = visible(name)
    return shown if len(shown) <= room else f"{shown[: room - 1]}…"
