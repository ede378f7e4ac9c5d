"""Runs compared: each one's scores, differences to the first with paired bootstrap intervals, and what guessing gives.

What is compared is read from the runs' answers files (``scored.py``); the page, the tables and the files show a
:class:`Comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_moe.eval.baselines import is_twin
from llava_moe.eval.benchmark import Answer, Benchmark, BenchmarkResult, Facts, ScoreRow
from llava_moe.eval.results.bootstrap import NUM_RESAMPLES, Interval, interval_of, resample
from llava_moe.eval.results.disagreements import Disagreement, find_disagreements
from llava_moe.eval.results.majority_baseline import guessed_answers
from llava_moe.eval.results.score_matrix import ScoreMatrix, make_score_matrix, scores_of
from llava_moe.eval.results.scored_run import ScoredRun, asked_alike, open_each, restricted, shared_questions
from llava_moe.eval.results.table import POINTS, title_of
from llava_moe.eval.statistics import Statistic, find_statistics, statistic_of


@dataclass(frozen=True)
class Cell:
    """One run's value of a measure, and its distance from the first run's.

    Attributes:
        value: None where the runs' shared questions do not give the measure.
        interval: of the value.
        difference: to the first run; None for the first run itself.
        difference_interval: paired; None where none is known.
    """

    value: float | None
    interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None

    @property
    def stands_out(self) -> bool:
        """Whether the 95 % interval of the difference lies off zero."""
        return self.difference_interval is not None and self.difference_interval.is_away_from_zero


@dataclass(frozen=True)
class ComparedRow:
    """A measure of a domain: a cell for each run, and each baseline's value where it has one.

    Attributes:
        is_main: belongs into the headline: the domain's first column, and scores on a scale of their own.
    """

    domain: str
    measure: str
    num_questions: int
    cells: tuple[Cell, ...]
    baselines: Mapping[str, float]
    is_main: bool


@dataclass(frozen=True)
class ComparedBenchmark:
    """One benchmark.

    Attributes:
        num_clusters: images (with all their questions) that were resampled.
        facts: what all runs share; None in results of an earlier version.
        notes: what a reader of the numbers needs.
    """

    name: str
    num_questions: int
    num_clusters: int
    facts: Facts | None
    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def main_rows(self) -> tuple[ComparedRow, ...]:
        """The headline: one row a domain as a rule."""
        return tuple(row for row in self.rows if row.is_main)

    @property
    def measures(self) -> frozenset[str]:
        """Names of all measures."""
        return frozenset(row.measure for row in self.rows)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines of any row, in order."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.baselines))


@dataclass(frozen=True)
class LossRow:
    """The held-out loss of a domain, in nats a token: a cell for each run."""

    domain: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ComparedLosses:
    """Held-out losses of the runs.

    Attributes:
        told: how each run's were measured, in words; "" where none were.
    """

    rows: tuple[LossRow, ...]
    told: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs on benchmarks. ``runs`` are labels, the first of them the one that others are held against."""

    runs: tuple[str, ...]
    folders: tuple[str, ...]
    benchmarks: tuple[ComparedBenchmark, ...]
    num_resamples: int
    seed: int
    notes: tuple[str, ...] = field(default=())
    losses: ComparedLosses | None = None

    @property
    def num_differences(self) -> int:
        """Headline differences that have an interval."""
        return sum(cell.difference_interval is not None for cell in self._main_cells())

    @property
    def num_standing_out(self) -> int:
        """Headline differences whose interval lies off zero."""
        return sum(cell.stands_out for cell in self._main_cells())

    def _main_cells(self) -> list[Cell]:
        return [cell for one in self.benchmarks for row in one.main_rows for cell in row.cells]


def compare_benchmark(
    runs: Sequence[ScoredRun],
    *,
    common: bool = False,
    blind: Sequence[ScoredRun] = (),
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> ComparedBenchmark:
    """Compare runs on one benchmark.

    Args:
        runs: two or more, or one to see beside its baselines.
        common: compare what draws of different questions share.
        blind: the same runs with grey images, shown as baselines where they answered the same questions.
        num_resamples, seed: of the bootstrap.

    Raises:
        UserError: the runs cannot be compared; see ``shared_questions``.
    """
    asked = shared_questions(runs, common=common)
    benchmarks, troubles = open_each(runs)
    benchmark = benchmarks[0]
    notes = list(runs[0].result.notes) if not common else []
    notes += [f"Without domains, images and guesses, and with every question on its own: {why}" for why in troubles]
    if len(asked) < max(len(run.answers) for run in runs):
        notes.append(f"Compared on the {len(asked):,} questions that were put alike to all runs.")
    sheet = make_score_matrix(benchmark, restricted(runs[0], asked).answers)
    table = _settled(runs, benchmarks, sheet)
    baselines = _baselines(benchmark, runs[0], table, asked, blind)
    rows = table.rows(baselines, num_resamples, seed)
    if any(cell.value is not None and cell.interval is None for row in rows for cell in row.cells):
        notes.append("Where no interval is shown, the measure is no sum over questions, or too few were asked.")
    return ComparedBenchmark(
        name=runs[0].result.benchmark,
        num_questions=len(sheet.ids),
        num_clusters=len(sheet.strata_G),
        facts=runs[0].result.facts,
        rows=rows,
        notes=tuple(notes),
        disagreements=find_disagreements(runs, sheet, benchmark, seed=seed),
    )


MAJORITY = "majority_answer"
"""The measure whose value stands as a baseline, too, called as the table of one run calls it."""
Key = tuple[str, str]
"""Domain and measure."""


@dataclass(frozen=True)
class _Measured:
    """A run's statistics over the sheet's questions, and the values that its result holds."""

    statistics: Mapping[Key, Statistic]
    published: Mapping[Key, float]
    is_whole: bool

    def value(self, key: Key) -> float | None:
        if key in self.statistics:
            value = self.statistics[key].value()
            return None if np.isnan(value) else value
        return self.published.get(key) if self.is_whole else None


def _settled(runs: Sequence[ScoredRun], benchmarks: Sequence[Benchmark | None], sheet: ScoreMatrix) -> _Table:
    """Every run measured over the sheet, each measure in a form that gives all of the runs' published values."""
    found = [_found(run, benchmark, sheet) for run, benchmark in zip(runs, benchmarks, strict=True)]
    forms: dict[Key, int] = {}
    for key, known in found[0].items():
        fitting = [form for form in known if all(form in other.get(key, {}) for other in found)]
        if fitting:
            forms[key] = fitting[0]
    measured = []
    for run, of_run in zip(runs, found, strict=True):
        published = {
            (row.domain, name): one.value for row in _domain_rows(run.result) for name, one in row.measures.items()
        }
        is_whole = len(sheet.ids) == sum(not is_twin(name) for name in run.answers)
        measured.append(_Measured({key: of_run[key][form] for key, form in forms.items()}, published, is_whole))
    return _Table(runs[0].result, sheet, measured, forms)


def _found(run: ScoredRun, benchmark: Benchmark | None, shared: ScoreMatrix) -> dict[Key, dict[int, Statistic]]:
    """Statistics found on the run's own draw, where its result says what they must give, narrowed to the sheet."""
    own = make_score_matrix(benchmark, run.answers)
    scores = scores_of(benchmark, own, run.answers)
    place = {name: number for number, name in enumerate(own.ids)}
    chosen_N = np.asarray([place[name] for name in shared.ids], dtype=np.int64)
    found = {}
    for row in _domain_rows(run.result):
        for name, measure in row.measures.items():
            fitting = find_statistics(name, row.domain, own, scores, measure.value)
            found[row.domain, name] = {
                form: Statistic(whole.terms_NK[chosen_N], whole.combine) for form, whole in fitting.items()
            }
    return found


def _domain_rows(result: BenchmarkResult) -> list[ScoreRow]:
    return [row for row in result.rows if row.kind is None]


@dataclass(frozen=True)
class _Table:
    """Runs measured over one sheet, to be turned into rows."""

    result: BenchmarkResult
    sheet: ScoreMatrix
    runs: Sequence[_Measured]
    forms: Mapping[Key, int]

    def rows(self, baselines: Mapping[str, _Measured], num_resamples: int, seed: int) -> tuple[ComparedRow, ...]:
        values = self._resampled(num_resamples, seed)
        rows = []
        for row in _domain_rows(self.result):
            headline = [name for name in self.result.columns if name in row.measures]
            main = [name for name in row.measures if name in POINTS] or headline[:1] or list(row.measures)[:1]
            for name in [*headline, *(one for one in row.measures if one not in headline)]:
                key = (row.domain, name)
                known = {title: value for title, one in baselines.items() if (value := one.value(key)) is not None}
                if name == "exact_match" and MAJORITY in row.measures:
                    majority = self.runs[0].value((row.domain, MAJORITY))
                    known = known if majority is None else {title_of(MAJORITY): majority, **known}
                cells = tuple(self._cell(number, key, values) for number in range(len(self.runs)))
                statistic = self.runs[0].statistics.get(key)
                num = row.measures[name].num_questions if statistic is None else statistic.num_questions
                rows.append(ComparedRow(row.domain, name, num, cells, known, name in main))
        return tuple(rows)

    def _resampled(self, num_resamples: int, seed: int) -> dict[tuple[int, Key], np.ndarray]:
        """Values on resamples by run and key; where two runs' terms are equal so are their values, to the bit."""
        if len(self.sheet.strata_G) < 2:
            return {}
        wanted = [(number, key) for number, run in enumerate(self.runs) for key in run.statistics]
        statistics: list[Statistic] = []
        place_of: dict[tuple[Key, bytes], int] = {}
        places = []
        for number, key in wanted:
            statistic = self.runs[number].statistics[key]
            place = place_of.setdefault((key, statistic.terms_NK.tobytes()), len(statistics))
            if place == len(statistics):
                statistics.append(statistic)
            places.append(place)
        values = resample(statistics, self.sheet, num_resamples=num_resamples, seed=seed)
        return {one: values[place] for one, place in zip(wanted, places, strict=True)}

    def _cell(self, number: int, key: Key, values: Mapping[tuple[int, Key], np.ndarray]) -> Cell:
        value, first = self.runs[number].value(key), self.runs[0].value(key)
        own, theirs = values.get((number, key)), values.get((0, key))
        interval = interval_of(own, value) if own is not None and value is not None else None
        if number == 0 or value is None or first is None:
            return Cell(value, interval)
        paired = None if own is None or theirs is None else interval_of(own - theirs, value - first)
        return Cell(value, interval, value - first, paired)


def _baselines(
    benchmark: Benchmark | None, first: ScoredRun, table: _Table, asked: Sequence[str], blind: Sequence[ScoredRun]
) -> dict[str, _Measured]:
    """Guesses on the shared questions, and blind runs that answered all of them in the same way."""
    found: dict[str, _Measured] = {}
    wanted = set(asked)
    if benchmark is not None:
        questions = [question for question in benchmark.questions() if question.id in wanted]
        for name, answers in guessed_answers(benchmark, questions).items():
            if wanted <= set(answers):
                found[name] = _applied(benchmark, table, answers)
    for run in blind:
        if wanted <= set(run.answers) and asked_alike(first.result, run.result):
            found[f"{run.label}, grey images"] = _applied(benchmark, table, restricted(run, asked).answers)
    return found


def _applied(benchmark: Benchmark | None, table: _Table, answers: Mapping[str, Answer]) -> _Measured:
    """Answers that no result stands for, measured as the first run's are."""
    scores = scores_of(benchmark, table.sheet, answers)
    statistics = {
        key: statistic
        for key, form in table.forms.items()
        if (statistic := statistic_of(form, key[1], key[0], table.sheet, scores)) is not None
    }
    return _Measured(statistics, {}, is_whole=False)
