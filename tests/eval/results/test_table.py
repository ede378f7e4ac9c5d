"""The tables that people read: per cent, points with a sign, and the same cells in the terminal and as Markdown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llava_moe.eval.benchmark import BenchmarkResult, Measure, ScoreRow
from llava_moe.eval.results.table import domain_table, kind_table, markdown_tables, paper_table, rich_tables


@pytest.fixture
def result() -> BenchmarkResult:
    columns = ("exact_match", "other_image", "majority_answer", "gap")

    def row(domain: str, kind: str | None, right: float, other: float, **more: Measure) -> ScoreRow:
        measures = {
            "exact_match": Measure(right, 312, 0.5, 0.7),
            "other_image": Measure(other, 312),
            "majority_answer": Measure(0.3, 312),
            "gap": Measure(right - other, 312),
        }
        return ScoreRow(domain, kind, None if kind is None else True, measures | more)

    rows = (
        row("general", None, 0.672, 0.25),
        row("documents", None, 0.5, 0.6, docvqa_anls=Measure(0.401, 1400)),
        row("all", None, 0.586, 0.425),
        row("general", "colour", 0.672, 0.25),
    )
    return BenchmarkResult("demo", "abc", columns, rows, notes=("A note.",))


def test_a_domain_has_its_columns_in_per_cent_and_signed_points(result: BenchmarkResult) -> None:
    table = domain_table(result)
    assert table.header == ("domain", "n", "right image", "other image", "majority", "gap")
    assert table.rows[0] == ("general", "312", "67.2", "25.0", "30.0", "+42.2")
    assert table.rows[1][-1] == "-10.0"
    assert [row[0] for row in table.rows] == ["general", "documents", "all"]


def test_the_papers_metrics_and_the_kinds_have_tables_of_their_own(result: BenchmarkResult) -> None:
    assert paper_table(result).rows == (("documents", "DocVQA ANLS", "1,400", "40.1"),)
    assert kind_table(result).rows == (("general", "colour", "closed", "312", "67.2", "25.0", "30.0", "+42.2"),)


def test_the_terminal_shows_the_cells_that_markdown_shows(result: BenchmarkResult) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    for drawn in rich_tables(result, kinds=True):
        console.print(drawn)
    shown, written = console.export_text(), markdown_tables(result, kinds=True)
    for table in (domain_table(result), paper_table(result), kind_table(result)):
        for cell in (cell for row in table.rows for cell in row):
            assert cell in shown and cell in written
    assert written.endswith("A note.\n")


def test_markdown_lines_up(result: BenchmarkResult) -> None:
    lines = [line for line in markdown_tables(result).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[1].startswith("| ---") and lines[1].endswith(": |")
