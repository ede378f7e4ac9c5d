"""Run a benchmark over a model: answers as they come, scores, results; a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from llava_moe.data.encode import Encoder
from llava_moe.data.end_tokens import end_token_ids
from llava_moe.errors import UserError
from llava_moe.eval.answer_shards import (
    PartCounter,
    appending,
    part_path,
    read_parts,
    refuse_second_writer,
    remove_parts,
)
from llava_moe.eval.benchmark import Answer, Benchmark, BenchmarkResult, ModelFacts, Question
from llava_moe.eval.files import answer_line, answers_path, read_result, result_path, write_answers, write_result
from llava_moe.eval.generation.generate import Answerer, LocalModel
from llava_moe.eval.generation.server import ServerError
from llava_moe.eval.question_hash import question_hashes
from llava_moe.eval.ranks import ALONE, Ranks
from llava_moe.files.atomic_write import write_atomically

OnProgress = Callable[[int, int], None]
"""Called with (questions answered by all processes, questions in all)."""

_SAMPLED_VALUES = 4096
_SUMMED_AT_ONCE = 1 << 22


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
    on_progress: OnProgress | None = None,
    ranks: Ranks = ALONE,
) -> BenchmarkResult:
    """Ask a model of ours every question of a benchmark; see :func:`ask_benchmark`.

    Args:
        model: a LLaVA model with its adapter attached.
        encoder: writes prompts and pixels as training did.
        batch_size: questions asked together.
        image_root: folder that image paths are relative to.
    """
    return ask_benchmark(
        benchmark,
        LocalModel(model, encoder, batch_size, image_root),
        folder,
        fingerprint=fingerprint,
        sets_aside=sets_aside,
        on_progress=on_progress,
        ranks=ranks,
    )


def ask_benchmark(
    benchmark: Benchmark,
    answerer: Answerer,
    folder: Path,
    *,
    fingerprint: str,
    answered_by: ModelFacts | None = None,
    sets_aside: bool = False,
    on_progress: OnProgress | None = None,
    ranks: Ranks = ALONE,
) -> BenchmarkResult:
    """Have every question of a benchmark answered and write what was answered and scored.

    Writes ``eval/<benchmark>.answers.jsonl`` (appended batch by batch, in question order once complete),
    ``eval/<benchmark>.json`` and its entry in ``eval/results.json``. Answers that stand there, by the same model
    to the same question, are kept and not asked again; those to questions outside this draw stay in the file, behind.

    Several processes share the waiting questions, each asked once. All but the first append to parts of their own,
    which any later number of processes reads back; the first gathers all answers and alone writes the files.

    Args:
        benchmark: what to ask.
        answerer: who is asked.
        folder: the run's folder.
        fingerprint: names the model's weights; see :func:`model_fingerprint`.
        answered_by: goes into the result.
        sets_aside: another model's answers are renamed to carry its fingerprint, where they would be refused: a run
            that was scored on its way is scored again at its end.
        on_progress: called in the first process, once before the first batch and after each.
        ranks: the processes that answer together.

    Raises:
        UserError: two questions share an id, the answers file holds another model's or is being written, the scores
            there are of another file of the same name, an image is unreadable, a server stopped answering, or the disk
            is full. Answers so far are kept.
        ReportedByRankZeroError: in all processes but the first, where it raised an error before or after the asking.
    """
    questions = benchmark.questions()
    _refuse_repeated(benchmark.name, questions)
    path = answers_path(folder, benchmark.name)

    def begin() -> tuple[dict[str, Answer], list[Answer], dict[str, str]]:
        has_changed(folder, benchmark)
        asked = question_hashes(questions, getattr(answerer, "image_root", None))
        return *_keep_answers(benchmark, path, questions, asked, fingerprint, sets_aside), asked

    answers, others, asked = ranks.from_first(begin)
    waiting = [question for question in questions if question.id not in answers]
    started = time.monotonic()
    progress = _Progress(on_progress if ranks.is_first else None, path, ranks, len(answers), len(questions))
    new = _ask(benchmark, answerer, waiting, asked, part_path(path, ranks.rank), fingerprint, progress, ranks)
    for share in ranks.gather(new):
        answers |= share
    progress.tell(len(answers))
    assert len(answers) == len(questions), "every question is answered once"

    def finish() -> BenchmarkResult:
        write_answers(path, [*(answers[question.id] for question in questions), *others])
        remove_parts(path)
        return _scored(benchmark, answers, folder, fingerprint, answered_by, time.monotonic() - started)

    return ranks.from_first(finish)


def _scored(
    benchmark: Benchmark,
    answers: Mapping[str, Answer],
    folder: Path,
    fingerprint: str,
    answered_by: ModelFacts | None,
    seconds: float,
) -> BenchmarkResult:
    """Score the answers to all questions, and write what was scored."""
    result = BenchmarkResult(
        benchmark=benchmark.name,
        model=fingerprint,
        columns=benchmark.columns,
        rows=benchmark.summarize(answers),
        notes=benchmark.notes(),
        seconds=seconds,
        facts=benchmark.facts,
        answered_by=answered_by,
    )
    if submission := benchmark.submission(answers):
        write_atomically(folder / "eval" / submission.name, submission.text)
    write_result(folder, result)
    return result


def _refuse_repeated(name: str, questions: Sequence[Question]) -> None:
    repeated = [identity for identity, count in Counter(question.id for question in questions).items() if count > 1]
    if repeated:
        raise UserError(
            f"benchmark {name} has {len(repeated)} ids that several questions share, such as {repeated[0]!r}: give "
            "each question an id of its own"
        )


def has_changed(folder: Path, benchmark: Benchmark) -> bool:
    """Whether a file of the user's asks something else than when it was scored here.

    Answers to questions that stayed as they were still stand: each is kept with a hash of what was asked.

    Raises:
        UserError: the scores there are of another file that has the same name.
    """
    now, result = benchmark.facts, read_result(folder, benchmark.name)
    before = None if result is None else result.facts
    if before is None or before.content == now.content:
        return False
    if os.path.realpath(os.path.expanduser(before.place)) != os.path.realpath(os.path.expanduser(now.place)):
        there = result_path(folder, benchmark.name)
        raise UserError(
            f"{there} holds the scores of {before.place}, which asks other questions than {now.place}: rename one of "
            "the two files, or choose another folder with out="
        )
    return True


class _Progress:
    """Tells how many questions all processes have answered."""

    def __init__(self, on_progress: OnProgress | None, path: Path, ranks: Ranks, num_kept: int, total: int) -> None:
        self._on_progress, self._num_kept, self._total = on_progress, num_kept, total
        self._elsewhere = PartCounter(path, ranks.world)
        self.count(0)

    def count(self, num_new: int) -> None:
        """``num_new``: what this process has answered."""
        if self._on_progress:
            self.tell(self._num_kept + num_new + self._elsewhere.count())

    def tell(self, done: int) -> None:
        """``done``: what all have answered."""
        if self._on_progress:
            self._on_progress(done, self._total)


def _ask(
    benchmark: Benchmark,
    answerer: Answerer,
    waiting: Sequence[Question],
    asked: Mapping[str, str],
    path: Path,
    fingerprint: str,
    progress: _Progress,
    ranks: Ranks,
) -> dict[str, Answer]:
    """This process's share of the answers, appended to ``path`` as they come."""
    new: dict[str, Answer] = {}
    with appending(path) as file:
        try:
            for batch in answerer.answers(waiting, ranks):
                for generated in batch:
                    question = waiting[generated.index]
                    new[question.id] = Answer(
                        question_id=question.id,
                        prediction=generated.text,
                        references=question.references,
                        score=benchmark.score(question, generated.text),
                        asked=asked[question.id],
                        model=fingerprint,
                    )
                    file.write(answer_line(new[question.id]))
                file.flush()
                progress.count(len(new))
        except ServerError as error:
            raise UserError(
                f"{error}; {len(new)} of {len(waiting)} waiting answers came and are kept: run the same command again "
                "to go on"
            ) from error
    return new


def _keep_answers(
    benchmark: Benchmark,
    path: Path,
    questions: Sequence[Question],
    asked: Mapping[str, str],
    fingerprint: str,
    sets_aside: bool,
) -> tuple[dict[str, Answer], list[Answer]]:
    """Answers that stand for these questions, scored as the protocol scores now, and those to other questions.

    Stale ones leave the file.
    """
    refuse_second_writer(path)
    found = read_parts(path)
    strangers = sorted({answer.model for answer in found} - {fingerprint})
    if strangers and not sets_aside:
        raise UserError(
            f"{path} holds answers of another model ({strangers[0]}, this one is {fingerprint}): "
            "move the file away or evaluate into another folder"
        )
    for stranger in strangers:
        aside = path.with_name(f"{path.name.removesuffix('.jsonl')}.{stranger}.jsonl")
        write_answers(aside, [answer for answer in found if answer.model == stranger])
    found = [answer for answer in found if answer.model == fingerprint]
    kept, others = _standing(found, asked)
    for question in questions:
        if question.id in kept:
            score = benchmark.score(question, kept[question.id].prediction)
            kept[question.id] = replace(kept[question.id], score=score)
    write_answers(path, [*kept.values(), *others])
    remove_parts(path)
    return kept, others


def _standing(found: Sequence[Answer], asked: Mapping[str, str]) -> tuple[dict[str, Answer], list[Answer]]:
    kept = {answer.question_id: answer for answer in found if asked.get(answer.question_id) == answer.asked}
    return kept, [answer for answer in found if answer.question_id not in asked]


def answerer_fingerprint(model: PreTrainedModel, encoder: Encoder) -> str:
    """16 hex digits over the weights and what is made of a question for them: tokens, template, pixels."""
    backend = encoder.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    told = [f"{one.name}={getattr(encoder, one.name)!r}" for one in fields(encoder) if one.name != "tokenizer"]
    end_tokens = end_token_ids(model, encoder.tokenizer)
    digest = hashlib.sha256(f"{model_fingerprint(model, end_tokens)}|{'|'.join(told)}|".encode())
    digest.update(backend.to_str().encode())
    return digest.hexdigest()[:16]


def model_fingerprint(model: torch.nn.Module, end_tokens: Sequence[int] = ()) -> str:
    """16 hex digits over every tensor's name, shape, type and values, and the end tokens where there are several.

    Of a tensor with more than 4,096 values, as many enter as they are, at even distance, and all by a sum of their bits
    weighted by place, modulo 2**64: no single value can change unseen, and it is cheap for 7 B parameters.
    """
    digest = hashlib.sha256(f"ends {tuple(end_tokens)}".encode() if len(end_tokens) > 1 else b"")
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // _SAMPLED_VALUES)
        digest.update(flat[::stride].to("cpu", torch.float64).numpy().tobytes())
        if stride > 1:
            digest.update(_weighted_sum(flat).to_bytes(8, "little", signed=True))
    return digest.hexdigest()[:16]


def _weighted_sum(flat_n: torch.Tensor) -> int:
    """The sum of each value's bits times its odd place, modulo 2**64, on the tensor's own device."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits_n = flat_n.contiguous().view(widths[flat_n.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat_n.device)
    for start in range(0, len(bits_n), _SUMMED_AT_ONCE):
        part_n = bits_n[start : start + _SUMMED_AT_ONCE].to(torch.int64)
        place_n = torch.arange(start, start + len(part_n), device=flat_n.device)
        total += (part_n * (2 * place_n + 1)).sum()
    return int(total)
