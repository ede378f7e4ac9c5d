"""A language model as judge of a run's answers: five prompts a question, a vote, every reply kept in a file.

Replies are appended to ``eval/<benchmark>.judge.jsonl`` as they come; a judge that is asked again goes on where it
stopped and retries what failed. A question with a failed call has no vote: it is counted as failed and stands in no
score.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Protocol

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import ALL_DOMAINS, Question
from llava_moe.eval.judging.judge_prompts import RUBRICS
from llava_moe.eval.metrics import tiny_lvlm_cee_vote
from llava_moe.eval.results.scored_run import ScoredRun
from llava_moe.files.atomic_write import cannot_write, write_atomically
from llava_moe.files.our_files import misfit, read_text
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import parse_json

MOST_FAILURES = 20
"""Calls failing one after the other before the judge is given up."""


class Judge(Protocol):
    """Answers a conversation; ``llava_moe.eval.generation.server.ChatServer`` is one."""

    def complete(
        self, messages: Sequence[Mapping[str, Any]], what: str, is_stopped: Callable[[], bool], **settings: Any
    ) -> str:
        """The text, or ``UserError``."""
        ...


CALL = {"question_id": str, "prompt": int, "asked": str, "reply": (str, NoneType), "error": (str, NoneType)}


@dataclass(frozen=True)
class Call:
    """One line of the replies' file: a prompt about a question, its reply, or the error that came instead."""

    question_id: str
    prompt: int
    asked: str
    reply: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Verdicts:
    """What the votes of some questions come to.

    Attributes:
        right, wrong, unreadable: questions by vote.
        failed: questions with a call that failed, in no score.
    """

    right: int = 0
    wrong: int = 0
    unreadable: int = 0
    failed: int = 0

    @property
    def accuracy(self) -> float | None:
        """Right among the voted, unreadable votes being wrong; None where nothing was voted."""
        voted = self.right + self.wrong + self.unreadable
        return self.right / voted if voted else None

    @property
    def accuracy_readable(self) -> float | None:
        """Right among the votes of 1 and 0."""
        read = self.right + self.wrong
        return self.right / read if read else None


def judged_path(folder: Path, benchmark: str) -> Path:
    """``eval/<benchmark>.judge.jsonl`` of a run's folder: the replies."""
    return folder / "eval" / f"{benchmark}.judge.jsonl"


def judge_answers(
    judge: Judge,
    judge_name: str,
    run: ScoredRun,
    questions: Sequence[Question],
    *,
    temperature: float,
    concurrency: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Verdicts]:
    """Ask five times about every answer, keep the replies, and vote.

    Args:
        judge_name: of the judge's model; replies of another stay in the file and are not counted.
        questions: as they are shown to the judge; those without references are left out.
        concurrency: calls that are on their way together.
        on_progress: called with (calls done, calls in all).

    Returns:
        Verdicts by domain, and of :data:`ALL_DOMAINS`.

    Raises:
        UserError: the judge failed :data:`MOST_FAILURES` times without a reply between, or the file cannot be written.
    """
    path = judged_path(run.folder, run.result.benchmark)
    asked = [question for question in questions if question.references]
    waiting = [_call(run, question, number, judge_name, temperature) for question in asked for number in _NUMBERS]
    calls = {(call.question_id, call.prompt): call for call in _kept(path, waiting)}
    missing = [call for call in waiting if (call.question_id, call.prompt) not in calls]
    texts = {question.id: question for question in asked}
    if on_progress:
        on_progress(len(calls), len(waiting))

    def ask(call: Call, is_stopped: Callable[[], bool]) -> str:
        question = texts[call.question_id]
        prediction = run.answers[question.id].prediction
        messages = RUBRICS[call.prompt].messages(question.prompt, question.references, prediction)
        what = f"question {question.id}, prompt {call.prompt + 1}"
        return judge.complete(messages, what, is_stopped, temperature=temperature)

    for call in _ask_all(ask, missing, path, concurrency):
        calls[call.question_id, call.prompt] = call
        if on_progress:
            on_progress(len(calls), len(waiting))
    return _count(asked, calls)


_NUMBERS = range(len(RUBRICS))


def _call(run: ScoredRun, question: Question, number: int, judge_name: str, temperature: float) -> Call:
    messages = RUBRICS[number].messages(question.prompt, question.references, run.answers[question.id].prediction)
    told = json.dumps([judge_name, temperature, messages])
    return Call(question.id, number, hashlib.sha256(told.encode()).hexdigest()[:16])


def _kept(path: Path, wanted: Sequence[Call]) -> Iterator[Call]:
    """The replies in the file that answer what would be asked now; failed calls are asked again."""
    if not path.exists():
        return
    asked = {(call.question_id, call.prompt, call.asked) for call in wanted}
    try:
        lines = read_regular(path).split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); move it away and judge again") from error
    for number, line in enumerate(lines, start=1):
        try:
            call = Call(**parse_json(line)) if line else None
            if call is not None and (told := misfit(asdict(call), CALL)):
                raise ValueError(told)
        except (ValueError, TypeError) as error:
            if number == len(lines):
                continue  # cut short by a kill
            raise UserError(f"{path} line {number} is no reply; move the file away and judge again") from error
        if call is not None and call.reply is not None and (call.question_id, call.prompt, call.asked) in asked:
            yield call


def _ask_all(
    ask: Callable[[Call, Callable[[], bool]], str], missing: Sequence[Call], path: Path, concurrency: int
) -> Iterator[Call]:
    """Every call with its reply or its error, as they come, each in the file before it is given back."""
    waiting: queue.SimpleQueue[Call] = queue.SimpleQueue()
    done: queue.SimpleQueue[Call | BaseException] = queue.SimpleQueue()
    stopped = threading.Event()
    for call in missing:
        waiting.put(call)

    def work() -> None:
        while not stopped.is_set():
            try:
                call = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put(Call(**(asdict(call) | {"reply": ask(call, stopped.is_set)})))
            except UserError as error:
                done.put(Call(**(asdict(call) | {"error": str(error)})))
            except Exception as error:
                # A thread's own end would leave the asking one waiting for ever.
                done.put(error)

    for _ in range(min(concurrency, len(missing))):
        threading.Thread(target=work, daemon=True).start()
    failures = 0
    _end_last_line(path)
    try:
        with path.open("a", encoding="utf-8") as file:
            for _ in missing:
                got = done.get()
                if isinstance(got, BaseException):
                    raise got
                file.write(json.dumps(asdict(got), ensure_ascii=False) + "\n")
                file.flush()
                failures = 0 if got.error is None else failures + 1
                if failures >= MOST_FAILURES:
                    raise UserError(f"the judge failed {failures} times in a row, last: {got.error}; replies are kept")
                yield got
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        stopped.set()


def _end_last_line(path: Path) -> None:
    """Drop a line that a kill cut short, so that the next one does not grow out of it."""
    if path.exists():
        text = read_text(path, "move the file away and judge again")
        if text and not text.endswith("\n"):
            write_atomically(path, text[: text.rfind("\n") + 1])


def _count(questions: Sequence[Question], calls: Mapping[tuple[str, int], Call]) -> dict[str, Verdicts]:
    names = ("unreadable", "wrong", "right")
    counts: dict[str, dict[str, int]] = {ALL_DOMAINS: {}}
    for question in questions:
        replies = [calls[question.id, number].reply for number in _NUMBERS]
        read = [reply for reply in replies if reply is not None]
        name = names[tiny_lvlm_cee_vote(read) + 1] if len(read) == len(replies) else "failed"
        for domain in {question.domain, ALL_DOMAINS}:
            of_domain = counts.setdefault(domain, {})
            of_domain[name] = of_domain.get(name, 0) + 1
    ordered = [domain for domain in counts if domain != ALL_DOMAINS]
    return {domain: Verdicts(**counts[domain]) for domain in (*ordered, ALL_DOMAINS)}


def write_verdicts(
    run: ScoredRun, verdicts: Mapping[str, Verdicts], judge_name: str, address: str, temperature: float
) -> Path:
    """Write ``eval/<benchmark>.judge.json``: the scores with everything that was counted."""
    path = run.folder / "eval" / f"{run.result.benchmark}.judge.json"
    content = {
        "benchmark": run.result.benchmark,
        "model": run.result.model,
        "scorer": "ensemble of five judge prompts (CEE of Tiny LVLM-eHub), prompts in our words",
        "judge": judge_name,
        "address": address,
        "temperature": temperature,
        "domains": {
            domain: asdict(one) | {"accuracy": one.accuracy, "accuracy_readable": one.accuracy_readable}
            for domain, one in verdicts.items()
        },
    }
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path
