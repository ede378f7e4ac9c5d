"""A comparison as tables: for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from llava_moe.eval.results.bootstrap import Interval
from llava_moe.eval.results.comparison import Cell, ComparedBenchmark, ComparedLosses, ComparedRow, Comparison
from llava_moe.eval.results.table import DIFFERENCES, POINTS, TextTable, markdown_table, title_of
from llava_moe.text.markdown import markdown_code, markdown_text

STANDS_OUT = "*"


def comparison_table(comparison: Comparison, compared: ComparedBenchmark, *, main: bool = True) -> TextTable:
    """A row a domain (and measure, where ``main`` is False): every run's score and its distance from the first's."""
    header = ["domain", "measure", "n", comparison.runs[0]]
    for run in comparison.runs[1:]:
        header += [run, f"against {comparison.runs[0]}"]
    rows = [
        (
            row.domain,
            title_of(row.measure, compared.measures),
            f"{row.num_questions:,}",
            *_cells(row),
            *(shown_value(row.measure, row.baselines.get(name)) for name in compared.baselines),
        )
        for row in (compared.main_rows if main else compared.rows)
    ]
    unit = "own scale" if all(row.measure in POINTS for row in compared.main_rows) else "%"
    protocol = "" if compared.facts is None else f"protocol {compared.facts.protocol}, "
    partial = "" if compared.facts is None or not compared.facts.partial else f"; {compared.facts.partial}"
    return TextTable(
        title=f"{compared.name}: {protocol}{unit}, 95 % intervals in brackets{partial}",
        header=(*header, *compared.baselines),
        rows=tuple(rows),
        num_labels=2,
    )


def _cells(row: ComparedRow) -> list[str]:
    cells = []
    for number, cell in enumerate(row.cells):
        cells.append(shown_value(row.measure, cell.value))
        if number:
            cells.append(shown_difference(row.measure, cell))
    return cells


def shown_value(measure: str, value: float | None) -> str:
    """``61.2``: per cent, or the measure's own points; ``-`` where there is nothing."""
    if value is None:
        return "-"
    return f"{scale_of(measure) * value:+.1f}" if measure in DIFFERENCES else f"{scale_of(measure) * value:.1f}"


def shown_difference(measure: str, cell: Cell) -> str:
    """``+3.4 [+1.0, +5.8] *``; the star says that zero lies outside."""
    if cell.difference is None:
        return "-"
    scale = scale_of(measure)
    told = f"{scale * cell.difference:+.1f}"
    if cell.difference_interval is not None:
        told += f" [{scale * cell.difference_interval.low:+.1f}, {scale * cell.difference_interval.high:+.1f}]"
    return f"{told} {STANDS_OUT}" if cell.stands_out else told


def scale_of(measure: str) -> float:
    """What a value is multiplied by to be shown: 100 for shares, 1 for points."""
    return 1.0 if measure in POINTS else 100.0


def explanation(comparison: Comparison, mark: str = STANDS_OUT) -> tuple[str, ...]:
    """Sentences that the numbers must not be read without; ``mark`` is what stands at differences off zero."""
    return (*score_explanation(comparison, mark), *loss_explanation(comparison, mark), *comparison.notes)


def score_explanation(comparison: Comparison, mark: str = STANDS_OUT) -> tuple[str, ...]:
    """What the tables of scores must not be read without."""
    if not comparison.benchmarks:
        return ()
    told = [
        f"Scores: intervals are paired bootstrap over images with all of their questions, "
        f"{comparison.num_resamples:,} resamples, seed {comparison.seed}, 2.5th to 97.5th percentile."
    ]
    if len(comparison.runs) > 1:
        told.append(
            f"{mark}, at a score: the interval of the difference to {comparison.runs[0]} leaves zero out; so do "
            f"{comparison.num_standing_out} of the {comparison.num_differences} differences of scores shown, where "
            f"chance alone would give about {0.05 * comparison.num_differences:.1f}. {_holds_for(comparison)}"
        )
    if any(one.baselines for one in comparison.benchmarks):
        told.append(
            "One answer a domain and best guess by prompt are the most frequent references of the questions asked, "
            "by domain and by the way a prompt begins: what guessing could reach, at most."
        )
    return tuple(told)


def loss_explanation(comparison: Comparison, mark: str = STANDS_OUT) -> tuple[str, ...]:
    """What the losses must not be read without."""
    if comparison.losses is None:
        return ()
    pairs = zip(comparison.runs, comparison.losses.told, strict=True)
    how = "; ".join(f"{run}: {told or 'not measured'}" for run, told in pairs)
    star = f"{mark}, at a loss: the 95 % interval over the same records leaves zero out. {_holds_for(comparison)}"
    measured = f"Held-out loss was measured so: {how}. Without an interval the runs may be of other records."
    return (star, measured) if len(comparison.runs) > 1 else (measured,)


def _holds_for(comparison: Comparison) -> str:
    """What an interval over items of runs of one training each does not say."""
    return (
        f"It holds for {_these(comparison)}, one training each: trained again with another seed they may differ "
        "otherwise, which llava-moe compare with seed=[0,1,2] measures."
    )


def _these(comparison: Comparison) -> str:
    return "these two runs" if len(comparison.runs) == 2 else f"these {len(comparison.runs)} runs"


def loss_table(comparison: Comparison) -> TextTable | None:
    """Held-out losses with a line for each run; None where there are none."""
    losses = comparison.losses
    if losses is None:
        return None
    rows = []
    for row in losses.rows:
        for number, (run, cell) in enumerate(zip(comparison.runs, row.cells, strict=True)):
            value = "-" if cell.value is None else f"{cell.value:.3f}"
            rows.append((row.domain if number == 0 else "", run, value, _loss_difference(cell) if number else ""))
    header = ("domain", "run", "loss", f"against {comparison.runs[0]}")
    title = "held-out loss, nats a token: lower is better"
    if any(cell.stands_out for row in losses.rows for cell in row.cells):
        title += f"; {STANDS_OUT} between {_these(comparison)}, another training may differ"
    return TextTable(title, header, tuple(rows), num_labels=2)


def _loss_difference(cell: Cell) -> str:
    if cell.difference is None:
        return "-"
    told = f"{cell.difference:+.3f}"
    if cell.difference_interval is not None:
        told += f" [{cell.difference_interval.low:+.3f}, {cell.difference_interval.high:+.3f}]"
    return f"{told} {STANDS_OUT}" if cell.stands_out else told


def long_table(comparison: Comparison, compared: ComparedBenchmark) -> TextTable:
    """The headline with a line for each run and baseline, narrow enough for a terminal."""
    measures = dict.fromkeys(row.measure for row in compared.main_rows)
    rows = []
    for row in compared.main_rows:
        named = row.domain if len(measures) < 2 else f"{row.domain}, {title_of(row.measure, compared.measures)}"
        lines = [
            (run, shown_value(row.measure, cell.value), shown_difference(row.measure, cell) if number else "")
            for number, (run, cell) in enumerate(zip(comparison.runs, row.cells, strict=True))
        ]
        lines += [(name, shown_value(row.measure, value), "") for name, value in row.baselines.items()]
        for number, line in enumerate(lines):
            rows.append((*((named, f"{row.num_questions:,}") if number == 0 else ("", "")), *line))
    title, told = comparison_table(comparison, compared).title, [title_of(one, compared.measures) for one in measures]
    return TextTable(
        title=f"{title}; {told[0]}" if len(told) == 1 else title,
        header=("domain", "n", "run", "score", f"against {comparison.runs[0]}"),
        rows=tuple(rows),
    )


def rich_comparison(comparison: Comparison) -> list[Table]:
    """A table a benchmark; differences that stand out are bold, baselines dim."""
    drawn = []
    for compared in comparison.benchmarks:
        table = long_table(comparison, compared)
        one = Table(title=table.title, title_justify="left", header_style="bold", box=None, pad_edge=False)
        for name, side in zip(table.header, ("left", "right", "left", "right", "right"), strict=True):
            one.add_column(name, justify="left" if side == "left" else "right", overflow="fold")
        for row in table.rows:
            style = "dim" if row[2] in compared.baselines else "bold" if STANDS_OUT in row[-1] else None
            one.add_row(*row, style=style)
        drawn.append(one)
    losses = loss_table(comparison)
    if losses is not None:
        one = Table(title=losses.title, title_justify="left", header_style="bold", box=None, pad_edge=False)
        for name in losses.header:
            one.add_column(name, justify="left" if name in ("domain", "run") else "right", overflow="fold")
        for row in losses.rows:
            one.add_row(*row, style="bold" if STANDS_OUT in row[-1] else None)
        drawn.append(one)
    return drawn


def markdown_comparison(comparison: Comparison) -> str:
    """Tables of all measures with what must be said of them."""
    parts = ["# Comparison of runs", "\n".join(_listed(comparison))]
    for compared in comparison.benchmarks:
        parts.append(markdown_table(comparison_table(comparison, compared, main=False)))
        parts += [markdown_text(as_one_line(note)) for note in compared.notes]
    parts += map(markdown_text, score_explanation(comparison))
    losses = loss_table(comparison)
    parts += [] if losses is None else [markdown_table(losses)]
    return "\n\n".join([*parts, *map(markdown_text, (*loss_explanation(comparison), *comparison.notes))]) + "\n"


def _listed(comparison: Comparison) -> list[str]:
    pairs = zip(comparison.runs, comparison.folders, strict=True)
    return [f"- {markdown_text(as_one_line(label))}: {markdown_code(as_one_line(folder))}" for label, folder in pairs]


def as_one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())


def json_comparison(comparison: Comparison) -> str:
    """Everything but the pictures, as JSON."""
    content = {
        "runs": [
            {"label": label, "folder": folder}
            for label, folder in zip(comparison.runs, comparison.folders, strict=True)
        ],
        "num_resamples": comparison.num_resamples,
        "seed": comparison.seed,
        "notes": list(comparison.notes),
        "benchmarks": {one.name: _benchmark(comparison.runs, one) for one in comparison.benchmarks},
        "held_out_loss": None if comparison.losses is None else _losses(comparison.runs, comparison.losses),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _losses(runs: Sequence[str], losses: ComparedLosses) -> dict[str, Any]:
    return {
        "measured": dict(zip(runs, losses.told, strict=True)),
        "domains": {
            row.domain: {run: _cell(cell) for run, cell in zip(runs, row.cells, strict=True)} for row in losses.rows
        },
    }


def _benchmark(runs: Sequence[str], compared: ComparedBenchmark) -> dict[str, Any]:
    return {
        "num_questions": compared.num_questions,
        "num_clusters": compared.num_clusters,
        "facts": None if compared.facts is None else asdict(compared.facts),
        "notes": list(compared.notes),
        "rows": [
            {
                "domain": row.domain,
                "measure": row.measure,
                "num_questions": row.num_questions,
                "is_main": row.is_main,
                "runs": {run: _cell(cell) for run, cell in zip(runs, row.cells, strict=True)},
                "baselines": dict(row.baselines),
            }
            for row in compared.rows
        ],
        "disagreements": [
            {
                "question_id": one.question_id,
                "domain": one.domain,
                "question": one.prompt,
                "references": list(one.references),
                "predictions": dict(zip(runs, one.predictions, strict=True)),
                "scores": dict(zip(runs, one.scores, strict=True)),
            }
            for one in compared.disagreements
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "value": cell.value,
        "interval": _interval(cell.interval),
        "difference": cell.difference,
        "difference_interval": _interval(cell.difference_interval),
        "stands_out": cell.stands_out,
    }


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
