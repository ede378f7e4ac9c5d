"""``comparison.html``: runs side by side, intervals drawn, and the answers that they disagree on most.

One file without a script, readable from a disk without a network. Everything that comes from data is escaped.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from llava_moe.eval.results.bootstrap import Interval
from llava_moe.eval.results.comparison import Cell, ComparedBenchmark, ComparedRow, Comparison
from llava_moe.eval.results.comparison_table import (
    comparison_table,
    loss_explanation,
    loss_table,
    scale_of,
    score_explanation,
    shown_difference,
    shown_value,
)
from llava_moe.eval.results.disagreements import Disagreement
from llava_moe.eval.results.table import TextTable, title_of
from llava_moe.files.atomic_write import write_atomically
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.html_page import page_template
from llava_moe.report.pictures import picture_of

_WIDTH, _HEIGHT, _MARGIN = 260.0, 16.0, 6.0


TEMPLATE = Path(__file__).with_name("comparison.html.j2")


@dataclass(frozen=True)
class Shown:
    """One run's line of a measure: its numbers as text, and its interval as a drawing."""

    run: str
    color: str
    value: str
    difference: str
    stands_out: bool
    drawing: Markup


@dataclass(frozen=True)
class ShownRow:
    """A headline measure of a domain."""

    domain: str
    measure: str
    num_questions: int
    runs: tuple[Shown, ...]


@dataclass(frozen=True)
class ShownDisagreement:
    """A question with small pictures and each run's answer."""

    asked: Disagreement
    pictures: tuple[str, ...]
    answers: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Section:
    """One benchmark of the page."""

    compared: ComparedBenchmark
    rows: tuple[ShownRow, ...]
    table: TextTable
    disagreements: tuple[ShownDisagreement, ...]


def write_comparison_page(folder: Path, comparison: Comparison, next_commands: Sequence[str] = ()) -> Path:
    """Write ``comparison.html``.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / "comparison.html"
    page = page_template(TEMPLATE).render(
        comparison=comparison,
        sections=[_section(comparison, compared) for compared in comparison.benchmarks],
        listed=list(zip(comparison.runs, comparison.folders, _colors(comparison), strict=True)),
        of_scores=score_explanation(comparison),
        of_losses=loss_explanation(comparison),
        losses=loss_table(comparison),
        next_commands=next_commands,
    )
    write_atomically(path, page)
    return path


def _colors(comparison: Comparison) -> list[str]:
    return [PALETTE[number % len(PALETTE)] for number in range(len(comparison.runs))]


def _section(comparison: Comparison, compared: ComparedBenchmark) -> Section:
    colors = _colors(comparison)
    return Section(
        compared=compared,
        rows=tuple(_row(comparison.runs, colors, row, compared.measures) for row in compared.main_rows),
        table=comparison_table(comparison, compared, main=False),
        disagreements=tuple(
            ShownDisagreement(
                asked=one,
                pictures=tuple(picture for image in one.images[:2] if (picture := picture_of(image))),
                answers=tuple(zip(comparison.runs, one.predictions, one.scores, strict=True)),
            )
            for one in compared.disagreements
        ),
    )


def _row(runs: Sequence[str], colors: Sequence[str], row: ComparedRow, measures: Container[str]) -> ShownRow:
    ends = [end for cell in row.cells for end in _ends(cell)] + [*row.baselines.values()]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    scale = scale_of(row.measure)
    shown = tuple(
        Shown(
            run=run,
            color=color,
            value=shown_value(row.measure, cell.value),
            difference=shown_difference(row.measure, cell) if number else "",
            stands_out=cell.stands_out,
            drawing=draw_interval(cell.value, cell.interval, low, high, color, list(row.baselines.values()), scale),
        )
        for number, (run, color, cell) in enumerate(zip(runs, colors, row.cells, strict=True))
    )
    return ShownRow(row.domain, title_of(row.measure, measures), row.num_questions, shown)


def _ends(cell: Cell) -> list[float]:
    if cell.value is None:
        return []
    return [cell.value] if cell.interval is None else [cell.interval.low, cell.value, cell.interval.high]


def draw_interval(
    value: float | None,
    interval: Interval | None,
    low: float,
    high: float,
    color: str,
    marks: Sequence[float] = (),
    scale: float = 100.0,
) -> Markup:
    """A value with its interval on a line from ``low`` to ``high``, baselines as thin marks; inline SVG of numbers."""
    if value is None:
        return Markup("")
    span = high - low or 1.0

    def at(number: float) -> str:
        return f"{_MARGIN + (number - low) / span * (_WIDTH - 2 * _MARGIN):.1f}"

    middle = _HEIGHT / 2
    parts = [
        f'<line x1="{at(mark)}" x2="{at(mark)}" y1="2" y2="{_HEIGHT - 2:.0f}" stroke="currentColor" '
        'stroke-opacity="0.45" stroke-dasharray="2 2"/>'
        for mark in marks
    ]
    told = f"{scale * value:.1f}"
    if interval is not None:
        told += f", interval {scale * interval.low:.1f} to {scale * interval.high:.1f}"
        parts.append(
            f'<line x1="{at(interval.low)}" x2="{at(interval.high)}" y1="{middle}" y2="{middle}" stroke="{color}" '
            'stroke-width="3" stroke-opacity="0.55"/>'
        )
    parts.append(f'<circle cx="{at(value)}" cy="{middle}" r="4" fill="{color}"/>')
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" role="img" '
        f'aria-label="{told}">{"".join(parts)}</svg>'
    )
