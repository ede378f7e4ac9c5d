"""A benchmark with every image replaced by a plain grey one: what a model answers without looking."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image

from llava_moe.eval.benchmark import Answer, Benchmark, Expected, Facts, Question, ScoreRow, Submission

BLIND_FOLDER = "blind"
"""Below a run's folder: where the answers of its blind run lie, in ``eval/`` as ever."""
GRAY = (128, 128, 128)
_SIDE = 64


@cache
def gray_image() -> bytes:
    """A grey square as PNG, always the same: not even a picture's shape is told."""
    stream = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), GRAY).save(stream, format="PNG")
    return stream.getvalue()


@dataclass(frozen=True)
class BlindBenchmark:
    """Another benchmark's questions, each image grey; scored and summed up as there."""

    seeing: Benchmark

    @property
    def name(self) -> str:
        """The other benchmark's name: its files lie in :data:`BLIND_FOLDER`."""
        return self.seeing.name

    @property
    def columns(self) -> tuple[str, ...]:
        """As there."""
        return self.seeing.columns

    @property
    def facts(self) -> Facts:
        """As there, and that the images are grey."""
        return replace(self.seeing.facts, data=f"{self.seeing.facts.data}; every image grey")

    @property
    def expected(self) -> Expected:
        """As there."""
        return self.seeing.expected

    def oracle(self, question: Question) -> str:
        """As there."""
        return self.seeing.oracle(question)

    def questions(self) -> Sequence[Question]:
        """As there, with grey images."""
        return tuple(
            replace(question, images=(gray_image(),) * len(question.images)) for question in self.seeing.questions()
        )

    def score(self, question: Question, prediction: str) -> dict[str, float]:
        """As there."""
        return self.seeing.score(question, prediction)

    def summarize(self, answers: Mapping[str, Answer]) -> tuple[ScoreRow, ...]:
        """As there."""
        return self.seeing.summarize(answers)

    def notes(self) -> tuple[str, ...]:
        """That the model saw grey, then the other's notes."""
        return ("Every image was replaced by a grey one: the model answers without looking.", *self.seeing.notes())

    def submission(self, answers: Mapping[str, Answer]) -> Submission | None:
        """None: nobody submits a blind run."""
        return None
