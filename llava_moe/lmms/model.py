"""Our models as lmms-eval's ``lmms``: ``lmms_eval --model llava_moe --model_args run=DIR``.

Source of the interface: lmms-eval 0.7.3 ``lmms_eval/api/model.py``, ``api/task.py`` (what requests hold) and
``evaluator.py`` (ranks). Imported when lmms-eval asks for the model, never before.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from tqdm import tqdm

from llava_moe.assemble import Assembled, open_checkpoint, restore
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generate import iterate_answers
from llava_moe.lmms.likelihood import answer_likelihood
from llava_moe.lmms.requests import Asked, read_generation_kwargs, read_question

WINDOW = 64
"""Batches whose images are held in memory together."""
AUTOMATIC_BATCH = 32


@dataclass(frozen=True)
class _Waiting:
    """A request that waits for its answer: its place in the reply, its name, and where lmms-eval keeps its parts."""

    place: int
    name: str
    context: str
    asked: Asked
    visuals: Any


class LlavaMoe(lmms):  # type: ignore[misc, unused-ignore]
    """A run of ours, or a Hugging Face LLaVA checkpoint, answering lmms-eval's requests.

    Args:
        run: a run's folder, an experiment's folder or one checkpoint.
        pretrained: instead, a Hugging Face LLaVA folder or hub id (``export to=hf`` writes one).
        dtype: ``fp32``, ``bf16`` or ``fp16``; None: as the run trained.
        device: None: the GPU of this rank, or the CPU.
        batch_size: questions answered together; ``auto`` is 32.
        seed: of sampled answers, for tasks that sample.

    Raises:
        UserError: not exactly one model is named, an argument is unknown, or the folder holds no model.
    """

    is_simple = True

    def __init__(
        self,
        run: str | None = None,
        pretrained: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise UserError(
                f"model_args {', '.join(sorted(unknown))}: llava_moe knows run, pretrained, dtype, device, batch_size "
                "and seed"
            )
        if (run is None) == (pretrained is None):
            raise UserError("model_args: name one model: run=FOLDER, or pretrained= a LLaVA checkpoint's folder")
        self.batch_size = _read_batch_size(batch_size, max_batch_size)
        self.device = torch.device(device or _device_of_rank())
        self._seed = seed
        self._assembled: Assembled | None = (
            restore(str(run), self.device, dtype)
            if pretrained is None
            else open_checkpoint(str(pretrained), dtype, self.device)
        )

    @property
    def assembled(self) -> Assembled:
        """The model and what encodes for it."""
        assert self._assembled is not None, "asked after clean()"
        return self._assembled

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests, those that are drawn alike asked together, long ones first."""
        names = _names(requests)
        waiting = []
        for place, request in enumerate(requests):
            context, kwargs, visuals, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            asked = read_generation_kwargs(kwargs, self._seed)
            waiting.append(_Waiting(place, names[place], context, asked, _Visuals(visuals, doc)))
        return self._answer(waiting, len(requests))

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of every round of each request; the task writes each round from the answers before it.

        A round is asked alone, without what was said before, as lmms-eval's own models do: what a round needs of
        earlier ones the task writes into its text.
        """
        names = _names(requests)
        talks = [_Talk(request.args, self.task_dict) for request in requests]
        number = 0
        while open_talks := [place for place, talk in enumerate(talks) if not talk.is_over]:
            waiting = [
                _Waiting(
                    place=order,
                    name=f"{names[place]}, round {number}",
                    context=talks[place].context,
                    asked=read_generation_kwargs(talks[place].kwargs, self._seed),
                    visuals=talks[place].visuals,
                )
                for order, place in enumerate(open_talks)
            ]
            for place, answer in zip(open_talks, self._answer(waiting, len(waiting)), strict=True):
                talks[place].hear(answer)
            number += 1
        return [talk.answers for talk in talks]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """``(loss, is_greedy)`` of each answer, the loss being the mean over its tokens, end token included.

        Trap: the interface speaks of log-probabilities, but lmms-eval's own models return the loss and its scorer
        takes the smallest. In 0.7.3 the evaluator turns a bare pair into text, on which that scorer fails; what a
        ``GenerationResult`` holds it hands on as it is.
        """
        names = _names(requests)
        pairs = []
        for request, name in tqdm(
            zip(requests, names, strict=True), "llava_moe", len(requests), disable=self.rank != 0
        ):
            context, target, visuals, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            answer = target if isinstance(target, str) else target(doc)
            question = read_question(name, context, visuals(doc), read_generation_kwargs({}, 0))
            found = answer_likelihood(self.assembled, question, str(answer))
            pairs.append(GenerationResult((found.loss, found.is_greedy)))
        return pairs

    def clean(self) -> None:
        """Let go of the model: a judge may need its memory."""
        self._assembled = None
        super().clean()

    def _answer(self, waiting: Sequence[_Waiting], total: int) -> list[str]:
        answers = [""] * total
        model, encoder = self.assembled.model, self.assembled.encoder
        with tqdm(total=total, desc="llava_moe", disable=self.rank != 0) as bar:
            for window in _windows(waiting, self.batch_size * WINDOW):
                questions = [_question(one) for one in window]
                for batch in iterate_answers(model, encoder, questions, batch_size=self.batch_size):
                    for generated in batch:
                        one = window[generated.index]
                        answers[one.place] = one.asked.cut(generated.text)
                    bar.update(len(batch))
        return answers


class _Visuals:
    """The images of a document, decoded when they are asked for."""

    def __init__(self, visuals: Any, doc: Any) -> None:
        self._visuals, self._doc = visuals, doc

    def __call__(self) -> Any:
        return self._visuals(self._doc)


class _Talk:
    """A request of several rounds: what is asked next, and what was answered."""

    def __init__(self, args: tuple[Any, ...], task_dict: Any) -> None:
        self.context, self.kwargs, visuals, self._write, doc_id, task, split = args
        self._doc = task_dict[task][split][doc_id]
        self.visuals: Any = _Visuals(visuals, self._doc)
        self.answers: list[str] = []
        self.is_over = False
        self._info: Any = None

    def hear(self, answer: str) -> None:
        """Take a round's answer and let the task write the next round, or end the talk."""
        self.answers.append(answer)
        visuals, self.context, self.is_over, answers, self._info = self._write(
            self._doc,
            previous_output=list(self.answers),
            round_idx=len(self.answers),
            previous_round_info=self._info,
        )
        # A task may rewrite what was answered before.
        self.answers = [str(text) for text in answers]
        self.visuals = lambda: visuals


def _question(one: _Waiting) -> Question:
    return read_question(one.name, one.context, one.visuals(), one.asked)


def _windows(waiting: Sequence[_Waiting], size: int) -> Iterator[list[_Waiting]]:
    """Requests that are drawn alike, the longest first, so many at a time."""
    by_decoding: dict[Any, list[_Waiting]] = {}
    for one in waiting:
        by_decoding.setdefault(one.asked.decoding, []).append(one)
    for alike in by_decoding.values():
        alike.sort(key=lambda one: (-len(one.context), one.place))
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _names(requests: Sequence[Any]) -> list[str]:
    """Task, split and number of each request's document; repetitions of one are told apart, so that they may differ."""
    seen: Counter[str] = Counter()
    names = []
    for request in requests:
        doc_id, task, split = request.args[-3:]
        name = f"{task}/{split}/{doc_id}"
        names.append(f"{name}, repetition {seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def _read_batch_size(given: int | str, largest: int | None) -> int:
    text = str(given)
    if text.startswith("auto"):
        return min(AUTOMATIC_BATCH, largest or AUTOMATIC_BATCH)
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"batch_size={given}: give a whole number from 1 on, or auto")
    return int(text)


def _device_of_rank() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
