"""What a benchmark is: questions about images, a score for each answer, and a summary by domain and kind.

A benchmark is one file in ``llava_moe/eval/tasks/``: it yields :class:`Question`, scores one prediction at a time and
sums up. It knows no model; ``run.py`` asks and writes, ``table.py`` and the report show a :class:`BenchmarkResult`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llava_moe.data.conversation import ImageRef

ALL_DOMAINS = "all"


@dataclass(frozen=True)
class Question:
    """One question, asked alone.

    ``prompt`` holds no image mark: the images come before it. ``closed`` says that the answer is one of few.
    ``max_new_tokens`` counts the end of sequence too.
    """

    id: str
    images: tuple[ImageRef, ...]
    prompt: str
    references: tuple[str, ...]
    domain: str
    kind: str
    closed: bool
    max_new_tokens: int = 16


@dataclass(frozen=True)
class Measure:
    """A mean over ``num_questions`` questions, 0..1 unless the metric says otherwise, with a 95 % interval if known."""

    value: float
    num_questions: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """The measures of one domain (``kind`` None), of one kind of question in it, or of :data:`ALL_DOMAINS` together."""

    domain: str
    kind: str | None
    closed: bool | None
    measures: Mapping[str, Measure]


@dataclass(frozen=True)
class BenchmarkResult:
    """What ``eval/<benchmark>.json`` holds.

    ``columns`` are the measures of the headline table in order; other measures of a row are the papers' metrics.
    """

    benchmark: str
    model: str
    columns: tuple[str, ...]
    rows: tuple[ScoreRow, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def row(self, domain: str, kind: str | None = None) -> ScoreRow:
        """The row of a domain or of one of its kinds.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.domain, row.kind) == (domain, kind):
                return row
        raise KeyError((domain, kind))

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that have a row, in order, without :data:`ALL_DOMAINS`."""
        return tuple(row.domain for row in self.rows if row.kind is None and row.domain != ALL_DOMAINS)


@dataclass(frozen=True)
class Answer:
    """One line of ``eval/<benchmark>.answers.jsonl``; ``asked`` hashes what was asked, ``model`` is the fingerprint."""

    question_id: str
    prediction: str
    references: tuple[str, ...]
    score: Mapping[str, float]
    asked: str = ""
    model: str = ""


class Benchmark(Protocol):
    """What ``run.run_benchmark`` needs of a benchmark."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    def questions(self) -> Sequence[Question]:
        """All questions, always the same and in the same order."""
        ...

    def score(self, question: Question, prediction: str) -> dict[str, float]:
        """Metric name to score of one raw prediction."""
        ...

    def summarize(self, answers: Mapping[str, Answer]) -> tuple[ScoreRow, ...]:
        """Rows from the answers to every question, keyed by question id."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Sentences a reader of the table needs: what was left out, what the columns mean."""
        ...
