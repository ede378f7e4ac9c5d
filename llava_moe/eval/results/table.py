"""A benchmark's result as a table: for the terminal (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from rich.table import Table

from llava_moe.eval.benchmark import ALL_DOMAINS, BenchmarkResult, Measure, ScoreRow
from llava_moe.text.markdown import markdown_text

TITLES = {
    "exact_match": "right image",
    "other_image": "other image",
    "majority_answer": "majority",
    "gap": "gap",
    "gap_over_majority": "over majority",
    "exact_match_all": "exact match, open questions too",
    "token_f1": "token F1, open questions too",
    "chartqa_relaxed_accuracy": "ChartQA relaxed accuracy",
    "docvqa_anls": "DocVQA ANLS",
    "pathvqa_closed_accuracy": "PathVQA closed accuracy",
    "pathvqa_open_recall": "PathVQA open recall",
}
ALONE_TITLES = {"exact_match": "exact match", "token_f1": "token F1"}
"""Where no other image is shown, none is the right one, and all questions are counted."""
DIFFERENCES = frozenset({"gap", "gap_over_majority"})
POINTS = frozenset({"tiny_lvlm_overall", "mme_score", "mme_perception_score", "mme_cognition_score"})
"""Measures on a scale of their own: shown as they are, where all others are shares."""


@dataclass(frozen=True)
class TextTable:
    """Cells as text; the first ``num_labels`` columns are labels, the rest are numbers; the row ``main`` is set off."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_labels: int = 1
    main: str = ALL_DOMAINS


def domain_table(result: BenchmarkResult) -> TextTable:
    """One row a domain and one for all: questions compared, then the headline columns in per cent."""
    rows = [row for row in result.rows if row.kind is None and any(name in row.measures for name in result.columns)]
    return TextTable(
        title=f"{result.benchmark}: {_unit(result)}",
        header=("domain", "n", *_titles(result)),
        rows=tuple((row.domain, _count(row, result.columns), *_cells(row, result.columns)) for row in rows),
    )


def _unit(result: BenchmarkResult) -> str:
    return f"{_scale(result)}{_partial(result)}"


def _partial(result: BenchmarkResult) -> str:
    """That a part of the questions was asked, for a title."""
    return "" if result.facts is None or not result.facts.partial else f"; {result.facts.partial}"


def _scale(result: BenchmarkResult) -> str:
    if "other_image" in result.columns:
        return "closed questions, exact match in % (differences in points)"
    if any(name in DIFFERENCES for name in result.columns):
        return "all questions, % (differences in points)"
    return ("" if result.facts is None else f"protocol {result.facts.protocol}, ") + "%"


def _titles(result: BenchmarkResult) -> list[str]:
    return [title_of(name, result.columns) for name in result.columns]


def kind_table(result: BenchmarkResult) -> TextTable:
    """One row a kind of question, with the headline columns."""
    return TextTable(
        title=f"{result.benchmark}: by kind of question{_partial(result)}",
        header=("domain", "kind", "answers", "n", *_titles(result)),
        rows=tuple(
            (
                row.domain,
                row.kind or "",
                "closed" if row.closed else "open",
                _count(row, result.columns),
                *_cells(row, result.columns),
            )
            for row in result.rows
            if row.kind is not None
        ),
        num_labels=3,
    )


def paper_table(result: BenchmarkResult) -> TextTable:
    """The papers' metrics, one row a metric of a domain."""
    rows, whose = [], "more" if _is_own(result) else "the papers'"
    for row in result.rows:
        if row.kind is None:
            for name, measure in row.measures.items():
                if name not in result.columns:
                    rows.append((row.domain, title_of(name), f"{measure.num_questions:,}", shown(name, measure)))
    return TextTable(
        title=f"{result.benchmark}: {whose} metrics, %{_partial(result)}",
        header=("domain", "metric", "n", "score"),
        rows=tuple(rows),
        num_labels=2,
    )


def _is_own(result: BenchmarkResult) -> bool:
    return result.facts is not None and result.facts.content != ""


def all_tables(result: BenchmarkResult, *, kinds: bool = False) -> tuple[TextTable, ...]:
    """The tables that hold anything: headline, papers' metrics, and by kind if asked."""
    tables = [domain_table(result), paper_table(result)] + ([kind_table(result)] if kinds else [])
    return tuple(table for table in tables if table.rows)


def rich_tables(result: BenchmarkResult, *, kinds: bool = False) -> list[Table]:
    """The tables for a rich console, numbers to the right, the row of all domains set off."""
    return [rich_table(table) for table in all_tables(result, kinds=kinds)]


def markdown_tables(result: BenchmarkResult, *, kinds: bool = False) -> str:
    """The tables and the notes as Markdown, which is also readable as plain text."""
    parts = [markdown_table(table) for table in all_tables(result, kinds=kinds)]
    return "\n\n".join([*parts, *map(markdown_text, result.notes)]) + "\n"


def title_of(name: str, beside: Container[str] = ("other_image",)) -> str:
    """A measure's name for people.

    Args:
        beside: the measures that it stands among.
    """
    alone = {} if "other_image" in beside else ALONE_TITLES
    return alone.get(name) or TITLES.get(name, name.replace("_", " "))


def percent(measure: Measure | None, *, signed: bool = False) -> str:
    """``61.2`` or ``+41.0`` with one decimal; ``-`` where there is nothing."""
    if measure is None:
        return "-"
    return f"{100 * measure.value:+.1f}" if signed else f"{100 * measure.value:.1f}"


def shown(name: str, measure: Measure | None) -> str:
    """A measure's value in its own unit: points of a sum, signed points of a difference, else per cent."""
    if name in POINTS and measure is not None:
        return f"{measure.value:.1f}"
    return percent(measure, signed=name in DIFFERENCES)


def _count(row: ScoreRow, columns: Sequence[str]) -> str:
    return f"{max((row.measures[name].num_questions for name in columns if name in row.measures), default=0):,}"


def _cells(row: ScoreRow, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(shown(name, row.measures.get(name)) for name in columns)


def rich_table(table: TextTable) -> Table:
    """One table for a rich console."""
    drawn = Table(title=table.title, title_justify="left", header_style="bold")
    for index, name in enumerate(table.header):
        drawn.add_column(name, justify="left" if index < table.num_labels else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row, style="bold" if row[0] == table.main else None)
    return drawn


def markdown_table(table: TextTable) -> str:
    """One table as Markdown, its title above it."""
    header, *rows = [[markdown_text(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index < table.num_labels else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if index < table.num_labels else "-" * (width - 1) + ":"
        for index, width in enumerate(max(width, 2) for width in widths)
    ]
    return "\n".join([f"**{markdown_text(table.title)}**", "", line(header), line(rule), *map(line, rows)])
