"""The four files of ``analyze forgetting``, and its tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from llava_moe.analyze.forgetting import SUMMARIES, Estimate, Forgetting
from llava_moe.analyze.forgetting_scores import Scores, TrainedPart
from llava_moe.analyze.output import MINUS, Output, render_page
from llava_moe.eval.benchmark import Facts
from llava_moe.eval.results.table import POINTS
from llava_moe.pages.domain_colors import colors_of
from llava_moe.pages.inline_svg import STYLE, inline_svg
from llava_moe.text.escape_control import visible

TEMPLATE = Path(__file__).with_name("forgetting.html.j2")
HEADER = ("by", "quantity", "after", "part", "value", "low", "high")
SCORE, LOSS = "score", "held_out_loss"


@dataclass(frozen=True)
class Found:
    """All that was read, and what is made of it.

    Attributes:
        labels: of the runs, in the order of training.
        weights: of each run, the fingerprint that its answers carry.
        facts: what each benchmark was asked with.
        losses: by held-out loss; None where no run measured one. Scores that are not there are NaN.
    """

    labels: tuple[str, ...]
    weights: tuple[str, ...]
    parts: tuple[TrainedPart, ...]
    facts: Mapping[str, Facts | None]
    scores: Scores
    forgetting: Forgetting
    losses: Forgetting | None
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The parts as a column's head: the domain alone where one benchmark asks about all."""
        one = len({part.benchmark for part in self.parts}) == 1
        return tuple(part.domain if one else part.name for part in self.parts)

    @property
    def is_share(self) -> bool:
        """Whether every score is a share, shown in per cent."""
        return not any(part.measure in POINTS for part in self.parts)


def forgetting_output(found: Found) -> Output:
    """The contents of the four files."""
    chart = _chart(found)
    by = {SCORE: found.forgetting} | ({} if found.losses is None else {LOSS: found.losses})
    facts = {
        "instrument": "forgetting",
        "runs": [{"name": name, "weights": own} for name, own in zip(found.labels, found.weights, strict=True)],
        "parts": [
            {"name": part.name, "trained_by": label, "measure": part.measure, "questions": num}
            for part, label, num in zip(found.parts, found.labels, found.scores.num_questions, strict=True)
        ],
        "benchmarks": {
            name: {"clusters": found.scores.num_clusters[name], "facts": None if facts is None else asdict(facts)}
            for name, facts in found.facts.items()
        },
        "settings": dict(found.settings),
        "notes": list(found.notes),
        **{name: _facts(one) for name, one in by.items()},
    }
    rows = [row for name, one in by.items() for row in _rows(name, one, found)]
    return Output(facts, HEADER, rows, chart, _page(found, chart))


def _facts(one: Forgetting) -> dict[str, Any]:
    return {
        "R": [[_estimate(cell) for cell in row] for row in one.scores],
        "changes": [_estimate(change) for change in one.changes],
        **{name: _estimate(value) for name, value in one.summary.items()},
    }


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    low, high = (None, None) if estimate.interval is None else (estimate.interval.low, estimate.interval.high)
    return {"value": estimate.value, "low": low, "high": high}


def _rows(by: str, one: Forgetting, found: Found) -> list[tuple[Any, ...]]:
    cells = [
        ("R", label, name, cell)
        for label, row in zip(found.labels, one.scores, strict=True)
        for name, cell in zip(found.names, row, strict=True)
    ]
    cells += [
        ("change", found.labels[-1], name, change) for name, change in zip(found.names[:-1], one.changes, strict=True)
    ]
    cells += [(name, "", "", value) for name, value in one.summary.items()]
    return [(by, *names, *_estimate(cell).values()) for *names, cell in cells]


def tables(found: Found) -> list[Table]:
    """The matrix and the four numbers, for the terminal."""
    matrix = Table(title=f"after training (rows), score on (columns), {_unit(found)}", title_justify="left")
    matrix.add_column("", overflow="fold")
    for name in found.names:
        matrix.add_column(visible(name), justify="right", overflow="fold")
    for label, row in zip(found.labels, found.forgetting.scores, strict=True):
        matrix.add_row(visible(label), *(_told(cell, found.is_share) for cell in row))
    numbers = Table(title="95 % intervals: paired bootstrap over images", title_justify="left")
    numbers.add_column("", overflow="fold")
    numbers.add_column("by score", justify="right", overflow="fold")
    if found.losses is not None:
        numbers.add_column("by held-out loss", justify="right", overflow="fold")
    numbers.add_column("what it is", overflow="fold")
    for name, meaning in SUMMARIES.items():
        loss = [] if found.losses is None else [_told(found.losses.summary.get(name), is_share=False)]
        numbers.add_row(name, _told(found.forgetting.summary.get(name), found.is_share), *loss, meaning)
    return [matrix, numbers]


def _unit(found: Found) -> str:
    return "in %" if found.is_share else "on its own scale"


def _told(estimate: Estimate | None, is_share: bool) -> str:
    """A value with its interval: ``41.2 [38.0, 44.1]``."""
    value, ends = _apart(estimate, is_share)
    return f"{value} [{ends}]" if ends else value


def _apart(estimate: Estimate | None, is_share: bool) -> tuple[str, str]:
    """A value, and the ends of its interval, which are empty where there is none."""
    if estimate is None or math.isnan(estimate.value):
        return "\N{EN DASH}", ""
    scale, digits = (100.0, 1) if is_share else (1.0, 3)

    def number(value: float) -> str:
        # Rounded to zero it has no sign.
        return f"{round(scale * value, digits) + 0.0:.{digits}f}".replace("-", MINUS)

    interval = estimate.interval
    ends = "" if interval is None else f"{number(interval.low)}, {number(interval.high)}"
    return number(estimate.value), ends


def _chart(found: Found) -> str:
    """The score on each part after each training: open before its own training, filled from there on."""
    panels = [(f"score, {_unit(found)}", found.forgetting, 100.0 if found.is_share else 1.0)]
    if found.losses is not None:
        panels.append(("held-out loss, nats per answer token", found.losses, 1.0))
    colors = colors_of(part.domain for part in found.parts)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9 * len(panels)), layout="constrained")
        for place, (title, one, scale) in enumerate(panels, start=1):
            axes = figure.add_subplot(len(panels), 1, place)
            axes.set_ylabel(title)
            for column, (name, part) in enumerate(zip(found.names, found.parts, strict=True)):
                _line(axes, [row[column] for row in one.scores], column, colors[part.domain], name, scale)
            axes.set_xticks(range(len(found.labels)), [f"after {_shortened(label)}" for label in found.labels])
            axes.margins(x=0.08)
            if place == 1:
                axes.legend(frameon=False, fontsize=9)
        return inline_svg(figure, "Score on each part after each training")


def _line(axes: Axes, column: Sequence[Estimate], own: int, color: str, name: str, scale: float) -> None:
    known = [(place, cell) for place, cell in enumerate(column) if math.isfinite(cell.value)]
    for is_trained in (False, True):
        part = [(place, cell) for place, cell in known if (place >= own) is is_trained]
        if not part:
            continue
        # Side by side, or their intervals would hide each other.
        at, values = [place + 0.04 * own for place, _ in part], [scale * cell.value for _, cell in part]
        ends = [_lengths(cell, scale) for _, cell in part]
        axes.errorbar(
            *(at, values, [*zip(*ends, strict=True)]),
            color=color,
            marker="o",
            markersize=5,
            markerfacecolor=color if is_trained else "none",
            linestyle="-" if is_trained else ":",
            elinewidth=0.9,
            label=visible(name) if is_trained else None,
        )


def _lengths(cell: Estimate, scale: float) -> tuple[float, float]:
    """How far the interval reaches below and above."""
    if cell.interval is None:
        return 0.0, 0.0
    return scale * (cell.value - cell.interval.low), scale * (cell.interval.high - cell.value)


def _shortened(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= 18 else f"{shown[:17]}…"


def _page(found: Found, chart: str) -> str:
    facts = [("runs", f"{len(found.labels)}"), ("benchmarks", ", ".join(found.facts))]
    facts += [("scores", ", ".join(dict.fromkeys(part.measure for part in found.parts)))]
    drawn = {name: one.partial for name, one in found.facts.items() if one is not None and one.partial}
    facts += [(f"{name} asked with", told) for name, told in drawn.items()]
    blocks = [("By score", _unit(found), found.forgetting, found.is_share)]
    if found.losses is not None:
        blocks.append(("By held-out loss", "nats per answer token, less is better", found.losses, False))
    return render_page(
        TEMPLATE,
        instrument="forgetting",
        title=found.labels[-1],
        heading="What is still known",
        facts=facts,
        labels=found.labels,
        names=found.names,
        parts=found.parts,
        blocks=[
            {
                "title": title,
                "unit": unit,
                "is_score": one is found.forgetting,
                "rows": [[_apart(cell, is_share) for cell in row] for row in one.scores],
                "changes": [_apart(change, is_share) for change in one.changes],
                "summary": [(name, _apart(one.summary.get(name), is_share), SUMMARIES[name]) for name in SUMMARIES],
                "has_intervals": any(cell.interval is not None for row in one.scores for cell in row),
            }
            for title, unit, one, is_share in blocks
        ],
        num_questions=found.scores.num_questions,
        num_clusters=found.scores.num_clusters,
        settings=found.settings,
        notes=found.notes,
        chart=Markup(chart),
    )
