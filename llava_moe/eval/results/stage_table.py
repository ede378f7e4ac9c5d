"""The table of what each stage adds: who answers in rows, domains in columns, narrow enough for a terminal."""

from __future__ import annotations

from llava_moe.eval.benchmark import BenchmarkResult, Measure
from llava_moe.eval.results.stage_scores import BLIND, StageScores
from llava_moe.eval.results.table import TextTable, domain_table, percent


def stage_table(scores: StageScores, result: BenchmarkResult) -> TextTable:
    """Scores in per cent, then how far the end lies above each in points, with half the width of the 95 % interval.

    Args:
        result: of the final model, whose headline this stands in place of.
    """
    rows = [("questions", *(f"{scores.counts[domain]:,}" for domain in scores.domains))]
    for line in scores.lines:
        cells = [line.measures[domain] for domain in scores.domains]
        shown = map(_gain, cells) if line.is_difference else map(percent, cells)
        rows.append((line.name, *shown))
    title = domain_table(result).title
    return TextTable(title=title, header=("", *scores.domains), rows=tuple(rows), main=scores.final)


def stage_notes(scores: StageScores) -> tuple[str, ...]:
    """What a reader of the table needs."""
    told = ["All rows answer the same questions; ± is a 95 % interval of the paired difference."]
    if scores.line(BLIND) is not None:
        told.append("Blind: the base before training answers from the words alone, without image tokens.")
    return tuple(told)


def _gain(measure: Measure) -> str:
    """``+6.1 ±3.0``."""
    told = percent(measure, signed=True)
    if measure.low is None or measure.high is None:
        return told
    return f"{told} ±{100 * max(measure.high - measure.value, measure.value - measure.low):.1f}"
