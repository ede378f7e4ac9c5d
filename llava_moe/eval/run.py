"""Run a benchmark over a model: answers as they come, scores, results; a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.data.conversation import ImageRef, StoredImage
from llava_moe.data.encode import Encoder
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import GREEDY, Answer, Benchmark, BenchmarkResult, Question
from llava_moe.eval.files import (
    answer_line,
    answers_path,
    cannot_write,
    read_answers,
    write_answers,
    write_atomically,
    write_result,
)
from llava_moe.eval.generate import iterate_answers

_SAMPLED_VALUES = 4096


def run_benchmark(
    benchmark: Benchmark,
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    folder: Path,
    *,
    fingerprint: str,
    batch_size: int = 32,
    sets_aside: bool = False,
    image_root: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> BenchmarkResult:
    """Ask a model every question of a benchmark and write what it answered and scored.

    Writes ``eval/<benchmark>.answers.jsonl`` (appended batch by batch, in question order once complete),
    ``eval/<benchmark>.json`` and its entry in ``eval/results.json``. Answers that stand there, by the same model
    to the same question, are kept and not asked again; those to questions outside this draw stay in the file, behind.

    Args:
        benchmark: what to ask.
        model: a LLaVA model with its adapter attached.
        encoder: writes prompts and pixels as training did.
        folder: the run's folder.
        fingerprint: names the model's weights; see :func:`model_fingerprint`.
        batch_size: questions asked together.
        sets_aside: another model's answers are renamed to carry its fingerprint, where they would be refused: a run
            that was scored on its way is scored again at its end.
        image_root: folder that image paths are relative to.
        on_progress: called with (questions answered, questions in all), once before the first batch and after each.

    Raises:
        UserError: the answers file holds another model's answers, an image is unreadable, or the disk is full.
    """
    questions = benchmark.questions()
    path = answers_path(folder, benchmark.name)
    answers, others = _keep_answers(path, questions, fingerprint, sets_aside)
    waiting = [question for question in questions if question.id not in answers]
    started = time.monotonic()
    if on_progress:
        on_progress(len(answers), len(questions))
    with _appending(path) as file:
        for batch in iterate_answers(model, encoder, waiting, batch_size=batch_size, image_root=image_root):
            for generated in batch:
                question = waiting[generated.index]
                answers[question.id] = Answer(
                    question_id=question.id,
                    prediction=generated.text,
                    references=question.references,
                    score=benchmark.score(question, generated.text),
                    asked=question_hash(question),
                    model=fingerprint,
                )
                file.write(answer_line(answers[question.id]))
            file.flush()
            if on_progress:
                on_progress(len(answers), len(questions))
    write_answers(path, [*(answers[question.id] for question in questions), *others])
    result = BenchmarkResult(
        benchmark=benchmark.name,
        model=fingerprint,
        columns=benchmark.columns,
        rows=benchmark.summarize(answers),
        notes=benchmark.notes(),
        seconds=time.monotonic() - started,
        facts=benchmark.facts,
    )
    if submission := benchmark.submission(answers):
        write_atomically(folder / "eval" / submission.name, submission.text)
    write_result(folder, result)
    return result


def _keep_answers(
    path: Path, questions: Sequence[Question], fingerprint: str, sets_aside: bool
) -> tuple[dict[str, Answer], list[Answer]]:
    """Answers that stand for these questions, and those to other questions; stale ones leave the file."""
    found = read_answers(path)
    strangers = {answer.model for answer in found} - {fingerprint}
    if strangers and sets_aside:
        path.replace(path.with_name(f"{path.name.removesuffix('.jsonl')}.{sorted(strangers)[0]}.jsonl"))
        found = []
    elif strangers:
        raise UserError(
            f"{path} holds answers of another model ({sorted(strangers)[0]}, this one is {fingerprint}): "
            "move the file away or evaluate into another folder"
        )
    asked = {question.id: question_hash(question) for question in questions}
    kept = {answer.question_id: answer for answer in found if asked.get(answer.question_id) == answer.asked}
    others = [answer for answer in found if answer.question_id not in asked]
    write_answers(path, [*kept.values(), *others])
    return kept, others


@contextmanager
def _appending(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("a", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise cannot_write(path, error) from error


def question_hash(question: Question) -> str:
    """16 hex digits over all that the model is given and held against: images, prompt, references, length, decoding.

    An image's path counts by its last two names, so that a folder of images may move. What a question leaves at its
    default adds nothing: answers to a question of an earlier version stand.
    """
    digest = hashlib.sha256()
    texts = [question.prompt, *question.references, str(question.max_new_tokens)]
    if question.decoding != GREEDY:
        texts.append(repr(question.decoding))
    if question.system is not None:
        texts.append(f"system: {question.system}")
    for part in [*map(_image_mark, question.images), *texts]:
        encoded = part if isinstance(part, bytes) else part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:16]


def _image_mark(image: ImageRef) -> str | bytes:
    if isinstance(image, StoredImage):
        return image.sha256
    return "/".join(image.split("/")[-2:]) if isinstance(image, str) else image


def model_fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits over every tensor's name, shape, type and values.

    Of a tensor with more than 4,096 values, as many are read at even distance: enough to tell checkpoints apart, and
    cheap for 7 B parameters.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // _SAMPLED_VALUES)
        digest.update(flat[::stride].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]
