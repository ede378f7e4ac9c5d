"""The scores behind an accuracy matrix: which part each run trained, and its questions on draws that all runs share.

Letters of shapes: R resamples, T trainings, N questions, K terms of a statistic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import ALL_DOMAINS, BenchmarkResult
from llava_moe.eval.results.bootstrap import resample
from llava_moe.eval.results.score_matrix import ScoreMatrix, make_score_matrix, scores_of
from llava_moe.eval.results.scored_run import ScoredRun, open_each, restricted, shared_questions
from llava_moe.eval.statistics import Statistic, find_statistics


@dataclass(frozen=True)
class TrainedPart:
    """What one of the runs trained, as a benchmark asks about it.

    Attributes:
        domain: as the run's data and the benchmark name it.
        row: of the benchmark's result, ``ScoreRow.domain``.
        measure: a score of that row.
    """

    benchmark: str
    domain: str
    row: str
    measure: str

    @property
    def name(self) -> str:
        """``demo.general``."""
        return f"{self.benchmark}.{self.domain}"


@dataclass(frozen=True)
class Scores:
    """Scores of all runs on all parts.

    Attributes:
        scores_TT: float64 [T, T].
        resampled_RTT: float64 [R, T, T]; NaN where a measure is no sum over questions.
        num_questions: of each part.
        num_clusters: of each benchmark: images (with all their questions) that were resampled.
        notes: what a reader of the numbers needs.
    """

    scores_TT: np.ndarray
    resampled_RTT: np.ndarray
    num_questions: tuple[int, ...]
    num_clusters: Mapping[str, int]
    notes: tuple[str, ...]


def choose_parts(
    results: Mapping[str, BenchmarkResult],
    trained: Sequence[Sequence[str]],
    labels: Sequence[str],
    asked: Sequence[str] | None,
    measure: str | None,
) -> tuple[TrainedPart, ...]:
    """The part that each run trained: as ``parts=`` says, else the domain that is new in its data.

    Args:
        results: benchmark to the first run's result.
        trained: the domains that each run trained.
        asked: names of parts, ``demo.general``, ``general`` or ``demo``, one a run; None: to be told from the data.
        measure: a score; None: the benchmark's first column.

    Raises:
        UserError: no part, or more than one, of a name or of a run, or no benchmark has the measure.
    """
    there = [part for result in results.values() for part in _parts_of(result, measure)]
    if measure is not None and not there:
        known = dict.fromkeys(name for result in results.values() for row in result.rows for name in row.measures)
        raise UserError(f"measure={measure} is no score of {', '.join(results)}: there is {', '.join(known)}")
    if asked is None:
        asked = [_new_domain(trained, labels, number) for number in range(len(labels))]
    elif len(asked) != len(labels):
        raise UserError(f"parts= names {len(asked)} for {len(labels)} runs: give the part that each run trained")
    if twice := [name for name, count in Counter(asked).items() if count > 1]:
        told = " and ".join(label for label, name in zip(labels, asked, strict=True) if name == twice[0])
        raise UserError(f"{told} both train {twice[0]}, and a part has one training: leave out one of the runs")
    return tuple(_find(name, label, there) for name, label in zip(asked, labels, strict=True))


def _parts_of(result: BenchmarkResult, measure: str | None) -> list[TrainedPart]:
    domain = ALL_DOMAINS if result.facts is None else result.facts.domain
    rows = {name: name for name in result.domains}
    if domain != ALL_DOMAINS:
        # A benchmark of one domain; its rows are subtasks.
        whole = [row.domain for row in result.rows if row.kind is None and row.domain == ALL_DOMAINS]
        rows = {domain: (whole or list(result.domains))[0]}
    found = []
    for name, row in rows.items():
        measures = result.row(row).measures
        chosen = measure or next((one for one in (*result.columns, *measures) if one in measures), None)
        if chosen in measures:
            found.append(TrainedPart(result.benchmark, name, row, str(chosen)))
    return found


def _new_domain(trained: Sequence[Sequence[str]], labels: Sequence[str], number: int) -> str:
    """The domain that a run trained and none before it."""
    own = trained[number]
    before = {domain for domains in trained[:number] for domain in domains}
    new = [domain for domain in own if domain not in before]
    if len(new) == 1 or len(own) == 1:
        return (new or list(own))[0]
    raise UserError(
        f"{labels[number]} trains {', '.join(own)}, of which {', '.join(new) or 'none'} is new: say which part of a "
        f"benchmark each of the {len(labels)} runs trains with parts=[...]"
    )


def _find(name: str, label: str, there: Sequence[TrainedPart]) -> TrainedPart:
    fitting = [part for part in there if name in (part.name, part.domain, part.benchmark)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(part.name for part in (fitting or there))
    if fitting:
        raise UserError(f"{name}, which {label} trains, is asked about by {known}: choose with parts= or benchmarks=")
    raise UserError(f"{name}, which {label} trains, is no part that all runs were scored on: there is {known}")


def read_matrix(
    runs: Mapping[str, Sequence[ScoredRun]], parts: Sequence[TrainedPart], num_resamples: int, seed: int
) -> Scores:
    """Every run's score on every part, and the same on resamples of the questions, paired over the runs.

    Args:
        runs: benchmark to each run's answers, in the order of training.

    Raises:
        UserError: the runs were not asked alike.
    """
    num = len(parts)
    scores_TT, resampled_RTT = np.full((num, num), np.nan), np.full((num_resamples, num, num), np.nan)
    counts, clusters, notes = [0] * num, {}, []
    for offset, (benchmark, scored) in enumerate(runs.items()):
        columns = [column for column, part in enumerate(parts) if part.benchmark == benchmark]
        sheet, found, troubles = _statistics(scored, [parts[column] for column in columns])
        notes += troubles
        clusters[benchmark] = len(sheet.strata_G)
        known = [(row, column) for row in range(num) for column in columns]
        for row, column in known:
            measured = scored[row].result.row(parts[column].row).measures[parts[column].measure]
            scores_TT[row, column], counts[column] = measured.value, measured.num_questions
        with_terms = [place for place, statistic in zip(known, found, strict=True) if statistic is not None]
        if len(sheet.strata_G) > 1 and with_terms:
            terms = [statistic for statistic in found if statistic is not None]
            drawn = resample(terms, sheet, num_resamples=num_resamples, seed=seed + offset)
            for (row, column), values_R in zip(with_terms, drawn, strict=True):
                resampled_RTT[:, row, column] = values_R
    return Scores(scores_TT, resampled_RTT, tuple(counts), clusters, tuple(notes))


def _statistics(
    runs: Sequence[ScoredRun], parts: Sequence[TrainedPart]
) -> tuple[ScoreMatrix, list[Statistic | None], list[str]]:
    """A statistic of each run and part, in this order: all of one form for a part, or none."""
    asked = shared_questions(runs)
    benchmarks, troubles = open_each(runs)
    whole = [restricted(run, asked) for run in runs]
    sheet = make_score_matrix(benchmarks[0], whole[0].answers)
    forms: list[list[dict[int, Statistic]]] = []
    for run, benchmark in zip(whole, benchmarks, strict=True):
        scores = scores_of(benchmark, sheet, run.answers)
        values = [run.result.row(part.row).measures[part.measure].value for part in parts]
        forms.append(
            [
                find_statistics(part.measure, part.row, sheet, scores, value)
                for part, value in zip(parts, values, strict=True)
            ]
        )
    found: list[Statistic | None] = []
    shared = [
        next((form for form in forms[0][place] if all(form in of_run[place] for of_run in forms)), None)
        for place in range(len(parts))
    ]
    for of_run in forms:
        found += [None if form is None else of_run[place][form] for place, form in enumerate(shared)]
    notes = [f"Without intervals: {why}" for why in troubles]
    lost = [part.name for part, form in zip(parts, shared, strict=True) if form is None]
    if lost and not troubles:
        notes.append(f"{', '.join(lost)}: no interval, for {parts[0].measure} is no sum over questions.")
    return sheet, found, notes


def read_losses(
    validations: Sequence[Mapping[str, Any] | None], parts: Sequence[TrainedPart], labels: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Held-out loss of each part's domain after each training, as the runs measured it at their last step.

    Losses of one domain are compared where they are of equally many records and supervised tokens: else the run that
    trained the domain is the measure, and the others are left out.

    Args:
        validations: each run's line of ``validation.jsonl``; None where it has none of its last step.

    Returns:
        float64 [T, T], NaN where none was measured; notes on what was left out.
    """
    num, notes = len(parts), []
    loss_TT = np.full((num, num), np.nan)
    for column, part in enumerate(parts):
        ledgers = [{} if one is None else one.get("domains", {}).get(part.domain, {}) for one in validations]
        sizes = [(ledger.get("samples"), ledger.get("supervised_tokens")) for ledger in ledgers]
        for row, ledger in enumerate(ledgers):
            if ledger.get("loss") is None:
                continue
            if sizes[row] != sizes[column]:
                notes.append(
                    f"The held-out loss of {part.domain} after {labels[row]} is of {sizes[row][0]} records and "
                    f"{sizes[row][1]} tokens, after {labels[column]} of {sizes[column][0]} and {sizes[column][1]}: it "
                    "is left out."
                )
                continue
            loss_TT[row, column] = ledger["loss"]
    return loss_TT, tuple(notes)
