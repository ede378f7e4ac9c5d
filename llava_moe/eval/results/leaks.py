"""Scores with and without the questions that were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from llava_moe.eval.benchmark import Benchmark
from llava_moe.eval.results.comparison_table import shown_value
from llava_moe.eval.results.score_matrix import make_score_matrix, scores_of
from llava_moe.eval.results.scored_run import ScoredRun
from llava_moe.eval.results.table import TextTable, title_of
from llava_moe.eval.statistics import Statistic, find_statistic


@dataclass(frozen=True)
class SplitScore:
    """A measure of a domain over all questions, over those that were not trained on, and over those that were.

    None where there are none, or where the measure is no sum over questions and cannot be split.
    """

    domain: str
    measure: str
    num_questions: int
    num_leaked: int
    value: float | None
    without: float | None
    leaked: float | None


@dataclass(frozen=True)
class LeakReport:
    """What of a benchmark's questions stands in a run's training mixture.

    Attributes:
        kinds: question id to what was found: its image, or its image and question.
        rows: scores; ``leaked`` there are questions whose image was trained on, with the question or without.
        num_unseen: images of the benchmark that could not be opened.
    """

    benchmark: str
    num_questions: int
    kinds: Mapping[str, str]
    rows: tuple[SplitScore, ...]
    num_unseen: int = 0

    def count(self, kind: str) -> int:
        """Questions of a kind of leak."""
        return sum(found == kind for found in self.kinds.values())


def split_scores(run: ScoredRun, benchmark: Benchmark, kinds: Mapping[str, str]) -> tuple[SplitScore, ...]:
    """A run's measures split by whether a question is among ``kinds``."""
    sheet = make_score_matrix(benchmark, run.answers)
    scores = scores_of(benchmark, sheet, run.answers)
    leaked_N = np.asarray([name in kinds for name in sheet.ids], dtype=bool)
    rows = []
    for row in run.result.rows:
        if row.kind is not None:
            continue
        for name, measure in row.measures.items():
            found = find_statistic(name, row.domain, sheet, scores, measure.value)
            if found is None:
                num = int((leaked_N & sheet.inside(row.domain)).sum())
                rows.append(SplitScore(row.domain, name, measure.num_questions, num, measure.value, None, None))
                continue
            terms_NK, combine = found.terms_NK, found.combine
            inside, outside = Statistic(terms_NK[leaked_N], combine), Statistic(terms_NK[~leaked_N], combine)
            rows.append(
                SplitScore(
                    domain=row.domain,
                    measure=name,
                    num_questions=found.num_questions,
                    num_leaked=inside.num_questions,
                    value=measure.value,
                    without=_known(outside),
                    leaked=_known(inside),
                )
            )
    return tuple(rows)


def _known(statistic: Statistic) -> float | None:
    value = statistic.value() if statistic.num_questions else float("nan")
    return None if np.isnan(value) else value


def leak_table(report: LeakReport) -> TextTable:
    """A row a measure of a domain: all questions, those not trained on, those trained on."""
    return TextTable(
        title=f"{report.benchmark}: scores with and without what was trained on",
        header=("domain", "measure", "n", "score", "trained on", "without them", "on them"),
        rows=tuple(
            (
                row.domain,
                title_of(row.measure),
                f"{row.num_questions:,}",
                shown_value(row.measure, row.value),
                f"{row.num_leaked:,}",
                shown_value(row.measure, row.without),
                shown_value(row.measure, row.leaked),
            )
            for row in report.rows
        ),
        num_labels=2,
    )


def leaks_json(reports: Sequence[LeakReport], about: Mapping[str, object]) -> str:
    """Counts and scores, as JSON."""
    content = {
        **about,
        "benchmarks": {
            report.benchmark: {
                "num_questions": report.num_questions,
                "num_unseen_images": report.num_unseen,
                "counts": {kind: report.count(kind) for kind in dict.fromkeys(report.kinds.values())},
                "scores": [asdict(row) for row in report.rows],
            }
            for report in reports
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def leaks_list(reports: Sequence[LeakReport]) -> str:
    """A JSON object a line for each question that was found."""
    return "".join(
        json.dumps({"benchmark": report.benchmark, "question_id": name, "found": kind}, ensure_ascii=False) + "\n"
        for report in reports
        for name, kind in report.kinds.items()
    )
