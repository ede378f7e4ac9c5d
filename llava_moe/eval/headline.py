"""The questions of a benchmark's headline alone, to be asked of what came before a model: earlier stages, the base.

Beside each its own picture, or none at all. "Without a picture" is the question's words in the model's own template,
with no image token and no features in their place; ``blind.py`` shows a grey picture instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from llava_moe.eval.baselines import TWIN_MARK, is_twin
from llava_moe.eval.benchmark import (
    ALL_DOMAINS,
    Answer,
    Benchmark,
    Expected,
    Facts,
    Measure,
    Question,
    ScoreRow,
    Submission,
)
from llava_moe.eval.intervals import mean_of

NO_PICTURE_FOLDER = "no_picture"
"""Below a run's folder: where the answers of its base without a picture lie, in ``eval/`` as ever."""


@dataclass(frozen=True)
class HeadlineBenchmark:
    """Another benchmark's headline questions, scored as there.

    Where a benchmark asks a question again beside another image, its headline counts the closed questions that it asks
    twice: these are asked once here. Of any other benchmark all questions are.
    """

    whole: Benchmark
    has_pictures: bool = True

    @property
    def name(self) -> str:
        """The other benchmark's name."""
        return self.whole.name

    @property
    def measure(self) -> str:
        """The headline's first column."""
        return self.whole.columns[0]

    @property
    def is_by_question(self) -> bool:
        """Whether that is a mean over the scores of single questions, which alone can be paired."""
        first = next(iter(self.questions()), None)
        return first is not None and self.measure in self.score(first, "")

    @property
    def columns(self) -> tuple[str, ...]:
        """That column alone where questions are left out."""
        return (self.measure,) if self._twinned else self.whole.columns

    @property
    def facts(self) -> Facts:
        """As there, and what is left out."""
        facts, num_asked = self.whole.facts, len(self.questions())
        left = [] if num_asked == facts.num_questions else [f"{num_asked:,} of them asked, those of the headline"]
        left += [] if self.has_pictures else ["no picture shown"]
        return replace(facts, data="; ".join([facts.data, *left]), num_questions=num_asked)

    @property
    def expected(self) -> Expected:
        """As there."""
        return self.whole.expected

    def oracle(self, question: Question) -> str:
        """As there."""
        return self.whole.oracle(question)

    def questions(self) -> tuple[Question, ...]:
        """The headline's, in the order they have there."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        twinned = self._twinned
        chosen = [one for one in self.whole.questions() if not twinned or (one.closed and one.id in twinned)]
        return tuple(one if self.has_pictures else replace(one, images=()) for one in chosen)

    @cached_property
    def _twinned(self) -> set[str]:
        return {one.id.partition(TWIN_MARK)[0] for one in self.whole.questions() if is_twin(one.id)}

    def score(self, question: Question, prediction: str) -> dict[str, float]:
        """As there."""
        return self.whole.score(question, prediction)

    def summarize(self, answers: Mapping[str, Answer]) -> tuple[ScoreRow, ...]:
        """Each domain's first column, and that of all together; as there where every question is asked."""
        if not self._twinned:
            return self.whole.summarize(answers)
        questions = self.questions()
        domains = (*dict.fromkeys(question.domain for question in questions), ALL_DOMAINS)
        return tuple(ScoreRow(domain, None, None, {self.measure: self._mean(answers, domain)}) for domain in domains)

    def _mean(self, answers: Mapping[str, Answer], domain: str) -> Measure:
        inside = [one.id for one in self.questions() if domain in (one.domain, ALL_DOMAINS)]
        return mean_of([answers[name].score[self.measure] for name in inside])

    def notes(self) -> tuple[str, ...]:
        """None: the rows stand beside the whole benchmark's."""
        return ()

    def submission(self, answers: Mapping[str, Answer]) -> Submission | None:
        """None: nobody submits an earlier stage."""
        return None
