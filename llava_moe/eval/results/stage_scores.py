"""What each stage of training adds: the same questions answered blind, after each stage and at the end, paired.

Everything is read from answers files: those of the final model, of earlier stages, and of the base without a picture.
A line counts the questions that all of them were asked; differences are paired over these (``intervals.py``).

Letters of shapes: N questions of the sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark, BenchmarkResult, Measure
from llava_moe.eval.files import answers_path, read_answers, read_result
from llava_moe.eval.headline import NO_PICTURE_FOLDER, HeadlineBenchmark
from llava_moe.eval.intervals import mean_of, paired_difference
from llava_moe.eval.question_hash import question_hashes
from llava_moe.eval.results.score_matrix import ScoreMatrix, make_score_matrix, scores_of
from llava_moe.eval.tasks import reopen_benchmark

MAJORITY, OTHER, BLIND = "majority answer", "another picture", "blind, no picture"
# The columns of a benchmark that are baselines of its first one.
_BASELINES = {MAJORITY: "majority_answer", OTHER: "other_image"}


@dataclass(frozen=True)
class StageLine:
    """One line of the table: a score, or how far the end lies above one, by domain and for all together."""

    name: str
    measures: Mapping[str, Measure]
    is_difference: bool = False


@dataclass(frozen=True)
class StageScores:
    """The lines of one benchmark; the final model's own is ``final``.

    Attributes:
        measure: what is scored, the benchmark's first column.
        domains: in order, all together last where there are several.
        earlier: names of the lines of earlier stages.
    """

    benchmark: str
    measure: str
    domains: tuple[str, ...]
    lines: tuple[StageLine, ...]
    final: str
    earlier: tuple[str, ...]

    def line(self, name: str) -> StageLine | None:
        """A line by its name."""
        return next((line for line in self.lines if line.name == name and not line.is_difference), None)

    def measure_of(self, name: str, domain: str) -> Measure | None:
        """One domain's score on a line."""
        line = self.line(name)
        return None if line is None else line.measures.get(domain)

    @property
    def counts(self) -> Mapping[str, int]:
        """Questions of each domain."""
        line = self.line(self.final)
        assert line is not None
        return {domain: measure.num_questions for domain, measure in line.measures.items()}


def read_stage_scores(root: Path, stages: Sequence[Path], result: BenchmarkResult) -> StageScores | None:
    """The lines of a run's result, from what lies in the folders of its stages.

    Args:
        root: the folder of the run, or of the experiment of several stages.
        stages: the stages' folders in order; the last one's scores are ``root``'s.

    Returns:
        None where neither an earlier stage nor the base was asked, or none of the questions that the final model was.

    Raises:
        UserError: a file is damaged.
    """
    before = {f"after {stage.name}": _answers_of(stage, result.benchmark) for stage in stages[:-1]}
    before = {name: answers for name, answers in before.items() if answers}
    blind = _answers_of(root / NO_PICTURE_FOLDER, result.benchmark)
    if not before and not blind:
        return None
    try:
        benchmark = reopen_benchmark(result)
    except UserError:
        return None  # its data has moved since; scores and answers stand without these lines
    final = f"after {stages[-1].name}" if len(stages) > 1 else "trained"
    return score_stages(benchmark, _answers_of(root, result.benchmark), final, before, blind)


def _answers_of(folder: Path, benchmark: str) -> dict[str, Answer]:
    """The answers of the model that a result is of; none where there is no result."""
    result = read_result(folder, benchmark)
    if result is None:
        return {}
    answers = read_answers(answers_path(folder, benchmark))
    return {answer.question_id: answer for answer in answers if answer.model == result.model}


def score_stages(
    benchmark: Benchmark,
    answers: Mapping[str, Answer],
    final: str,
    before: Mapping[str, Mapping[str, Answer]],
    blind: Mapping[str, Answer],
) -> StageScores | None:
    """Compare the final model's answers with those of what came before it.

    Args:
        benchmark: with all of its questions.
        answers: the final model's, by question id.
        final: the final model's name.
        before: name of a stage to its answers, in order.
        blind: of the base without a picture; may be empty.

    Returns:
        None where no question was put alike to all.
    """
    seeing, unseeing = HeadlineBenchmark(benchmark), HeadlineBenchmark(benchmark, has_pictures=False)
    asked = question_hashes(seeing.questions())
    groups = [(answers, asked), *((one, asked) for one in before.values())]
    if blind:
        groups.append((blind, question_hashes(unseeing.questions())))
    shared = [name for name in asked if all(name in of and of[name].asked == put[name] for of, put in groups)]
    if not shared:
        return None
    sheet = make_score_matrix(benchmark, {name: answers[name] for name in shared})
    own = scores_of(benchmark, sheet, answers)
    if seeing.measure not in own or np.isnan(own[seeing.measure]).any():
        return None
    scores = {
        MAJORITY: own.get(_BASELINES[MAJORITY]),
        BLIND: _scores(blind, sheet, seeing.measure) if blind else None,
        **{name: _scores(of, sheet, seeing.measure) for name, of in before.items()},
        final: own[seeing.measure],
        OTHER: own.get(_BASELINES[OTHER]),
    }
    found = {name: score_N for name, score_N in scores.items() if score_N is not None}
    domains = _domains(sheet)
    lines = [StageLine(name, _means(sheet, domains, score_N)) for name, score_N in found.items()]
    for name in [*reversed([*before]), OTHER, MAJORITY]:
        if name in found:
            told = f"over {name.removeprefix('after ')}"
            lines.append(StageLine(told, _differences(sheet, domains, found[final], found[name]), is_difference=True))
    return StageScores(benchmark.name, seeing.measure, domains, tuple(lines), final, tuple(before))


def _scores(answers: Mapping[str, Answer], sheet: ScoreMatrix, measure: str) -> np.ndarray:
    return np.asarray([answers[name].score[measure] for name in sheet.ids], dtype=np.float64)


def _domains(sheet: ScoreMatrix) -> tuple[str, ...]:
    domains = tuple(dict.fromkeys(sheet.domains))
    return domains if len(domains) == 1 else (*domains, ALL_DOMAINS)


def _means(sheet: ScoreMatrix, domains: Sequence[str], score_N: np.ndarray) -> dict[str, Measure]:
    return {domain: mean_of(score_N[sheet.inside(domain)].tolist()) for domain in domains}


def _differences(
    sheet: ScoreMatrix, domains: Sequence[str], score_N: np.ndarray, other_N: np.ndarray
) -> dict[str, Measure]:
    inside = {domain: sheet.inside(domain) for domain in domains}
    return {
        domain: paired_difference(score_N[chosen].tolist(), other_N[chosen].tolist())
        for domain, chosen in inside.items()
    }
