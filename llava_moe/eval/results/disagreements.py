"""The questions that runs disagree on most: where to look first when two scores differ."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from llava_moe.data.conversation import ImageRef
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark, Question
from llava_moe.eval.results.score_matrix import ScoreMatrix
from llava_moe.eval.results.scored_run import ScoredRun

NUM_SHOWN = 16


@dataclass(frozen=True)
class Disagreement:
    """One question with every run's answer.

    Attributes:
        prompt: "" where the benchmark's data is not at hand.
        predictions, scores: one a run, in their order.
        spread: highest score less lowest.
    """

    question_id: str
    domain: str
    kind: str
    prompt: str
    references: tuple[str, ...]
    predictions: tuple[str, ...]
    scores: tuple[float, ...]
    images: tuple[ImageRef, ...]

    @property
    def spread(self) -> float:
        """Highest score less lowest."""
        return max(self.scores) - min(self.scores)


def find_disagreements(
    runs: Sequence[ScoredRun], sheet: ScoreMatrix, benchmark: Benchmark | None, *, seed: int = 0, limit: int = NUM_SHOWN
) -> tuple[Disagreement, ...]:
    """The questions whose first score spreads most over the runs, those each run loses in turn, drawn by seed.

    Ties are broken by the seed and the question's id, never by what the answers are.
    """
    questions = {} if benchmark is None else {question.id: question for question in benchmark.questions()}
    found = [
        _disagreement(name, [run.answers[name] for run in runs], questions.get(name))
        for name in sheet.ids
        if all(run.answers[name].score for run in runs)
    ]
    by_loser: dict[int, list[Disagreement]] = {}
    for one in sorted(found, key=lambda one: (-one.spread, _drawn(seed, one.question_id))):
        if one.spread > 0:
            by_loser.setdefault(one.scores.index(min(one.scores)), []).append(one)
    ranked = [(turn, loser, one) for loser, lost in by_loser.items() for turn, one in enumerate(lost)]
    return tuple(one for _, _, one in sorted(ranked, key=lambda entry: entry[:2])[:limit])


def _disagreement(name: str, answers: Sequence[Answer], question: Question | None) -> Disagreement:
    measure = next(iter(answers[0].score))
    return Disagreement(
        question_id=name,
        domain=ALL_DOMAINS if question is None else question.domain,
        kind="" if question is None else question.kind,
        prompt="" if question is None else question.prompt,
        references=answers[0].references,
        predictions=tuple(answer.prediction for answer in answers),
        scores=tuple(answer.score.get(measure, 0.0) for answer in answers),
        images=() if question is None else question.images,
    )


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
