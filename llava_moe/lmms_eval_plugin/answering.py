"""Answers to lmms-eval's requests, batch by batch; what ``model.py`` hands on. Nothing of lmms-eval is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from llava_moe.assemble import Assembled
from llava_moe.data.conversation import IMAGE_PLACEHOLDER, USER, Turn
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import iterate_answers, question_turns
from llava_moe.eval.generation.question_images import image_sizes
from llava_moe.lmms_eval_plugin.likelihood import Likelihood, answer_likelihood
from llava_moe.lmms_eval_plugin.requests import Asked, read_generation_kwargs, read_question

WINDOW = 64
"""Batches whose images are held in memory together."""

Documents = Mapping[str, Mapping[str, Any]]
"""Task to split to its documents, by number: lmms-eval's ``task_dict``."""
Progress = Callable[[int], None]
"""Called with the number of answers that came."""


class Request(Protocol):
    """What is read of an ``lmms_eval.api.instance.Instance``; the last three of its arguments name a document."""

    @property
    def args(self) -> tuple[Any, ...]: ...


@dataclass
class Replies:
    """Answers of one model.

    Attributes:
        documents: of every task that is asked.
        batch_size: questions answered together.
        seed: of sampled answers, for tasks that sample.
        on_progress: told of every batch.
    """

    assembled: Assembled
    documents: Documents
    batch_size: int
    seed: int = 0
    on_progress: Progress = lambda _: None

    def generate(self, requests: Sequence[Request]) -> list[str]:
        """Answers in the order of the requests.

        ``args``: text, ``generation_kwargs``, document to images, number of the document, task, split.
        """
        waiting = []
        for place, (request, name) in enumerate(zip(requests, _names(requests), strict=True)):
            context, kwargs, visuals, *_ = request.args
            doc = self._document(request)
            waiting.append(_Waiting(place, name, context, self._read(kwargs), _shown(visuals, doc)))
        return self._answer(waiting)

    def converse(self, requests: Sequence[Request]) -> list[list[str]]:
        """The answers of all rounds of each request; its task writes each round from the answers before it.

        A round is asked alone, without what was said before, as lmms-eval's own models do (``llava_onevision``): what
        it needs of earlier rounds the task writes into its text.

        ``args``: text, ``generation_kwargs``, document to images, the task's function from document and answers to
        (images, text, whether it is over, answers so far, anything), number of the document, task, split.
        """
        names = _names(requests)
        talks = [_Talk(request, self._document(request)) for request in requests]
        number = 0
        while open_talks := [place for place, talk in enumerate(talks) if not talk.is_over]:
            waiting = []
            for order, place in enumerate(open_talks):
                name, talk = f"{names[place]}, round {number}", talks[place]
                waiting.append(_Waiting(order, name, talk.context, self._read(talk.kwargs), talk.visuals))
            for place, answer in zip(open_talks, self._answer(waiting), strict=True):
                talks[place].hear(answer)
            number += 1
        return [talk.answers for talk in talks]

    def judge(self, requests: Sequence[Request]) -> list[Likelihood]:
        """How likely the model holds each answer.

        ``args``: text, the answer or a function from document to answer, document to images, number of the document,
        task, split.
        """
        found = []
        for request, name in zip(requests, _names(requests), strict=True):
            context, target, visuals, *_ = request.args
            doc = self._document(request)
            answer = target if isinstance(target, str) else str(target(doc))
            question = read_question(name, context, _shown(visuals, doc)(), read_generation_kwargs({}))
            found.append(answer_likelihood(self.assembled, question.id, question.images, turns_of(question), answer))
            self.on_progress(1)
        return found

    def _document(self, request: Request) -> Any:
        number, task, split = request.args[-3:]
        return self.documents[task][split][number]

    def _read(self, kwargs: Mapping[str, Any]) -> Asked:
        return read_generation_kwargs(kwargs, self.seed)

    def _answer(self, waiting: Sequence[_Waiting]) -> list[str]:
        answers = [""] * len(waiting)
        for window in _windows(waiting, self.batch_size * WINDOW):
            questions = [read_question(one.name, one.context, one.visuals(), one.asked) for one in window]
            for batch in iterate_answers(
                self.assembled.model,
                self.assembled.encoder,
                questions,
                batch_size=self.batch_size,
                write_prompt=self._write_prompt,
            ):
                for generated in batch:
                    answers[window[generated.index].place] = generated.text
                self.on_progress(len(batch))
        return answers

    def _write_prompt(self, question: Question) -> np.ndarray:
        encoder = self.assembled.encoder
        return encoder.encode_prompt(turns_of(question), [len(question.images)], image_sizes(question, encoder))


def turns_of(question: Question) -> list[Turn]:
    """The question as one user turn: as evaluation writes it, or with its images where its own marks stand."""
    return [Turn(USER, question.prompt)] if IMAGE_PLACEHOLDER in question.prompt else question_turns(question)


@dataclass(frozen=True)
class _Waiting:
    """A request that waits for its answer: its place among them, its name, its parts; images come when asked for."""

    place: int
    name: str
    context: str
    asked: Asked
    visuals: Callable[[], Sequence[Image.Image] | None]


class _Talk:
    """A request of several rounds: what is asked next, and what was answered."""

    def __init__(self, request: Request, doc: Any) -> None:
        self.context, self.kwargs, visuals, self._write, *_ = request.args
        self._doc = doc
        self.visuals = _shown(visuals, doc)
        self.answers: list[str] = []
        self.is_over = False
        self._info: Any = None

    def hear(self, answer: str) -> None:
        """Take a round's answer and let the task write the next round, or end the talk."""
        said = [*self.answers, answer]
        visuals, self.context, self.is_over, answers, self._info = self._write(
            self._doc, previous_output=said, round_idx=len(said), previous_round_info=self._info
        )
        # A task may rewrite what was answered before.
        self.answers = [str(text) for text in answers]
        self.visuals = lambda: visuals


def _shown(visuals: Any, doc: Any) -> Callable[[], Any]:
    return lambda: None if visuals is None else visuals(doc)


def _windows(waiting: Sequence[_Waiting], size: int) -> Iterator[list[_Waiting]]:
    """Requests that are drawn alike, the longest first, so many at a time."""
    by_decoding: dict[Any, list[_Waiting]] = {}
    for one in waiting:
        by_decoding.setdefault(one.asked.decoding, []).append(one)
    for alike in by_decoding.values():
        alike.sort(key=lambda one: (-len(one.context), one.place))
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _names(requests: Sequence[Request]) -> list[str]:
    """Task, split and number of each request's document; repetitions of one are told apart, so that they may differ."""
    seen: Counter[str] = Counter()
    names = []
    for request in requests:
        number, task, split = request.args[-3:]
        name = f"{task}/{split}/{number}"
        names.append(f"{name}, repetition {seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names
