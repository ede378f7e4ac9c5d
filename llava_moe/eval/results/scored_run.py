"""A run that has been scored, read back from its files, and the questions that several runs share.

Runs are compared on answers to the same questions only: what was asked of each is held side by side here, and another
protocol, wording, decoding or scorer is refused by name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Answer, Benchmark, BenchmarkResult, Facts
from llava_moe.eval.files import answers_path, read_answers, read_result, read_results, result_path
from llava_moe.eval.question_hash import question_hash
from llava_moe.eval.tasks import benchmark_names, called, is_own, open_benchmark, reopen_benchmark
from llava_moe.files.run_places import absent_run
from llava_moe.text.shell_words import named, shell

NEVER_MIXED = ("protocol", "prompt", "system", "decoding", "max_new_tokens", "scorer")
"""Facts that must be equal whatever questions are compared."""


@dataclass(frozen=True)
class ScoredRun:
    """One run's result of one benchmark; ``answers`` are those of the result's own draw, in its order."""

    label: str
    folder: Path
    result: BenchmarkResult
    answers: Mapping[str, Answer]


def run_labels(folders: Sequence[Path]) -> tuple[str, ...]:
    """The shortest ends of the paths that tell the folders apart, one for each.

    Raises:
        UserError: a folder stands twice.
    """
    whole = [folder.expanduser().absolute() for folder in folders]
    if twice := [str(folder) for folder, count in Counter(whole).items() if count > 1]:
        raise UserError(f"runs: {twice[0]} is named twice; name each run once")
    longest = max((len(path.parts) for path in whole), default=1)
    for length in range(1, longest + 1):
        labels = ["/".join(path.parts[-length:]) for path in whole]
        if len(set(labels)) == len(labels):
            return tuple(labels)
    return tuple(str(path) for path in whole)


def scored_benchmarks(folder: Path) -> list[str]:
    """Names of the benchmarks that a run's folder holds results of, those of files of the user's own behind."""
    names = benchmark_names()
    own = sorted(name for name in read_results(folder) if name not in names)
    return [name for name in (*names, *own) if result_path(folder, name).is_file()]


def word_of(benchmark: str, facts: Facts | None) -> str:
    """What ``benchmarks=`` takes for a benchmark that was scored: its name, or the path of the user's file."""
    return facts.place if facts is not None and facts.content else benchmark


def read_scored(folder: Path, label: str, word: str) -> ScoredRun:
    """Read what an evaluation wrote.

    Args:
        word: the benchmark's name, or the path of a file of the user's.

    Raises:
        UserError: the folder or the result is missing, the evaluation is unfinished, its files do not fit together, or
            the scores are of another file of the same name.
    """
    if not folder.is_dir():
        raise UserError(f"runs: {absent_run(folder)}")
    benchmark = called(word)
    result = read_result(folder, benchmark)
    if result is None:
        raise UserError(f"{folder} has not been scored on {word}: {_scoring(folder, word)}")
    _refuse_other_file(folder, result, word)
    path = answers_path(folder, benchmark)
    answers = read_answers(path)
    num_asked = len(answers) if result.facts is None else result.facts.num_questions
    drawn = {answer.question_id: answer for answer in answers[:num_asked]}
    strangers = sorted({answer.model for answer in drawn.values()} - {result.model})
    if not drawn or len(drawn) < num_asked or strangers:
        why = f"answers of the model {strangers[0]}" if strangers else f"{len(drawn):,} of {num_asked:,} answers"
        raise UserError(
            f"{path} holds {why}, and the result beside it is of {result.model}: run {_scoring(folder, word)} to "
            "its end"
        )
    return ScoredRun(label, folder, result, drawn)


def _refuse_other_file(folder: Path, result: BenchmarkResult, word: str) -> None:
    """Refuse scores of a file that asks something else than the one that is named."""
    facts = result.facts
    if not is_own(word) or word == result.benchmark or facts is None or not os.path.exists(os.path.expanduser(word)):
        return
    if facts.content != open_benchmark(word, 0).facts.content:
        raise UserError(
            f"{result_path(folder, result.benchmark)} is of {facts.place} as it was then, and {word} asks other "
            f"questions: {_scoring(folder, word)} scores those"
        )


def refuse_unscored(folders: Sequence[Path], words: Sequence[str]) -> None:
    """Refuse runs that lack scores, all of them at once.

    Args:
        words: benchmarks, as ``benchmarks=`` takes them; without any, a run lacks what has no score at all.

    Raises:
        UserError: a folder is missing, or runs lack scores, with one line of commands that writes them all.
    """
    if gone := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"runs: {absent_run(gone[0])}")
    there = {folder: scored_benchmarks(folder) for folder in dict.fromkeys(folders)}
    lacking = {folder: [word for word in words if called(word) not in names] for folder, names in there.items()}
    without = [folder for folder, missing in lacking.items() if (missing if words else not there[folder])]
    if not without:
        return
    commands = [
        _scoring(folder, *lacking[folder]) if words else f"llava-moe eval {named('run', folder)}" for folder in without
    ]
    on = dict.fromkeys(word for folder in without for word in lacking[folder])
    verb = "has" if len(without) == 1 else "have"
    told = f"{', '.join(map(str, without))} {verb} not been scored{' on ' if on else ''}{', '.join(on)}"
    raise UserError(f"runs: {told}: {' && '.join(commands)}")


def _scoring(folder: Path, *words: str) -> str:
    """The command that scores a run."""
    benchmarks = f"benchmarks=[{','.join(words)}]"
    return f"llava-moe eval {named('run', folder)} {shell(benchmarks)}"


def shared_questions(runs: Sequence[ScoredRun], *, common: bool = False) -> tuple[str, ...]:
    """Ids of the questions that every run was asked alike, in the first run's order.

    Args:
        common: where runs answered different draws of questions, take what they share; otherwise that is refused.

    Raises:
        UserError: another protocol, prompt, system prompt, decoding, length or scorer; another data variant or other
            questions without ``common``; nothing shared with it.
    """
    first = runs[0]
    shared = list(first.answers)
    for other in runs[1:]:
        _refuse_other_facts(first, other, common)
        alike = {
            name
            for name, answer in other.answers.items()
            if name in first.answers and first.answers[name].asked == answer.asked
        }
        if not common and (len(alike) < len(other.answers) or len(alike) < len(first.answers)):
            raise UserError(_other_questions(first, other, len(alike)))
        shared = [name for name in shared if name in alike]
    if not shared:
        raise UserError(
            f"{first.result.benchmark}: no question was put alike to {', '.join(run.label for run in runs)}; "
            "evaluate them with the same data, limit and seed"
        )
    return tuple(shared)


def _refuse_other_facts(first: ScoredRun, other: ScoredRun, common: bool) -> None:
    one, two = first.result.facts, other.result.facts
    if (one is None) != (two is None):
        older = first if one is None else other
        raise UserError(
            f"{first.result.benchmark}: {older.label} was scored by an earlier version that named no protocol; "
            f"evaluate it again: {_scoring(older.folder, first.result.benchmark)}"
        )
    if one is None or two is None:
        return
    if not common and one.draw != two.draw:
        raise UserError(
            f"{first.result.benchmark}: {first.label} was asked {_drawn(one)}, {other.label} "
            f"{_drawn(two)}; evaluate both with the same limit, or add common=true to compare the "
            "questions that both answered"
        )
    for name in NEVER_MIXED if common else (*NEVER_MIXED, "data"):
        if getattr(one, name) != getattr(two, name):
            raise UserError(
                f"{first.result.benchmark}: {name} differs: {first.label} has {_said(one, name)}, "
                f"{other.label} has {_said(two, name)}; evaluate both alike"
                + (", or add common=true to compare the questions that both answered" if name == "data" else "")
            )


def _drawn(facts: Facts) -> str:
    return f"with {facts.draw or f'limit={facts.limit}'}" if facts.draw or facts.limit else "without a limit"


def asked_alike(one: BenchmarkResult, other: BenchmarkResult) -> bool:
    """Whether two results share every fact but the data and the draw."""
    if one.facts is None or other.facts is None:
        return one.facts is other.facts
    return all(getattr(one.facts, name) == getattr(other.facts, name) for name in NEVER_MIXED)


def _said(facts: Facts, name: str) -> str:
    value = getattr(facts, name)
    return repr(value) if isinstance(value, str) else "the model's own" if value is None else str(value)


def _other_questions(first: ScoredRun, other: ScoredRun, num_alike: int) -> str:
    return (
        f"{first.result.benchmark}: the questions differ: {first.label} answered {len(first.answers):,}, {other.label} "
        f"{len(other.answers):,}, and {num_alike:,} were put alike to both; evaluate both with the same data, limit "
        "and seed, or add common=true to compare those"
    )


def open_asked(run: ScoredRun) -> tuple[Benchmark | None, str | None]:
    """The benchmark that a run was scored on, with all its questions; or None and why its data cannot be used."""
    try:
        benchmark = reopen_benchmark(run.result)
        questions = {question.id: question for question in benchmark.questions()}
    except UserError as error:
        return None, str(error)
    for name, answer in run.answers.items():
        if name not in questions or question_hash(questions[name]) != answer.asked:
            why = f"the data of {run.result.benchmark} is not what {run.label} was scored on (question {name})"
            return None, why
    return benchmark, None


def open_each(runs: Sequence[ScoredRun]) -> tuple[list[Benchmark | None], list[str]]:
    """Every run's benchmark, opened once for runs that share data, seed and protocol; and what went wrong."""
    opened: dict[tuple[str, str, int, str] | None, Benchmark | None] = {}
    troubles = []
    for run in runs:
        key = _data_of(run)
        if key in opened and set(run.answers) <= set(runs[0].answers):
            continue
        opened[key], trouble = open_asked(run)
        if trouble is not None:
            troubles.append(trouble)
    return [opened[_data_of(run)] for run in runs], troubles


def _data_of(run: ScoredRun) -> tuple[str, str, int, str] | None:
    facts = run.result.facts
    return None if facts is None else (facts.place, facts.content, facts.seed, facts.protocol)


def restricted(run: ScoredRun, asked: Sequence[str]) -> ScoredRun:
    """The run with the answers to some questions alone, in their order."""
    return replace(run, answers={name: run.answers[name] for name in asked})
