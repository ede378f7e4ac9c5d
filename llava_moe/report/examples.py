"""Answers to show: right and wrong ones of each domain, with a small picture."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from llava_moe.data.conversation import BadRecord, ImageRef
from llava_moe.data.images.transform import open_image
from llava_moe.eval.baselines import is_twin
from llava_moe.eval.benchmark import Answer, Question

THUMBNAIL_PIXELS = 160


@dataclass(frozen=True)
class ShownAnswer:
    """One answer of the page; ``picture`` is a ``data:`` address, empty where there is no image."""

    domain: str
    kind: str
    question: str
    prediction: str
    reference: str
    is_right: bool
    picture: str


def choose_examples(
    questions: Sequence[Question], answers: Mapping[str, Answer], *, right: int = 3, wrong: int = 2, seed: int = 0
) -> tuple[ShownAnswer, ...]:
    """``right`` right and ``wrong`` wrong answers of each domain, drawn by seed, of many kinds if there are.

    Only questions about their own image that are answered are drawn from: with an image given as bytes, or scored by
    exact match, which is what "right" means.
    """
    shown = []
    for domain in dict.fromkeys(question.domain for question in questions):
        candidates = [
            question
            for question in questions
            if question.domain == domain
            and question.id in answers
            and not is_twin(question.id)
            and (
                "exact_match" in answers[question.id].score
                or all(isinstance(image, bytes) for image in question.images)
            )
        ]
        candidates.sort(key=lambda question: hashlib.sha256(f"{seed}:{question.id}".encode()).digest())
        for is_right, count in ((True, right), (False, wrong)):
            agreeing = [one for one in candidates if (answers[one.id].score.get("exact_match") == 1.0) == is_right]
            shown += [_show(question, answers[question.id], is_right) for question in _spread(agreeing, count)]
    return tuple(shown)


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """The first of each kind in turn, then the second of each, and so on."""
    turns: dict[str, int] = {}
    ranked = []
    for place, question in enumerate(questions):
        turn = turns[question.kind] = turns.get(question.kind, -1) + 1
        ranked.append((turn, place, question))
    return [question for _, _, question in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def _show(question: Question, answer: Answer, is_right: bool) -> ShownAnswer:
    image = question.images[0] if question.images else None
    return ShownAnswer(
        domain=question.domain,
        kind=question.kind,
        question=question.prompt,
        prediction=answer.prediction,
        reference=" / ".join(question.references),
        is_right=is_right,
        picture="" if image is None else thumbnail(image),
    )


def thumbnail(image: ImageRef) -> str:
    """The image as a ``data:`` address, at most 160 pixels on its long side; "" where it cannot be opened."""
    try:
        return thumbnail_of(open_image(image))
    except BadRecord:
        return ""


def thumbnail_of(picture: Image.Image) -> str:
    """An opened RGB picture as :func:`thumbnail` gives it."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    stream = io.BytesIO()
    small.save(stream, format="WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
