"""Scored runs written as an evaluation writes them, without a model: answers come from a function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from llava_moe.eval.benchmark import Answer, Benchmark, BenchmarkResult, Question
from llava_moe.eval.files import answers_path, write_answers, write_result
from llava_moe.eval.question_hash import question_hash

Predict = Callable[[Question], str]


def write_scored(folder: Path, benchmark: Benchmark, predict: Predict) -> Path:
    """A run's folder with ``eval/<benchmark>.json`` and its answers."""
    fingerprint = hashlib.sha256(folder.name.encode()).hexdigest()[:16]
    answers = {}
    for question in benchmark.questions():
        text = predict(question)
        score = benchmark.score(question, text)
        asked = question_hash(question)
        answers[question.id] = Answer(question.id, text, question.references, score, asked, fingerprint)
    write_answers(answers_path(folder, benchmark.name), answers.values())
    rows, notes = benchmark.summarize(answers), benchmark.notes()
    result = BenchmarkResult(
        benchmark.name, fingerprint, benchmark.columns, rows, notes, seconds=1.0, facts=benchmark.facts
    )
    write_result(folder, result)
    return folder


def guesser(benchmark: Benchmark, seed: int, skill: float) -> Predict:
    """Right with a chance of ``skill``; otherwise the right answer to another question, or nothing.

    The hash differs from the one that benchmarks draw their questions by, which are those of small hashes.
    """
    oracle = [benchmark.oracle(question) for question in benchmark.questions() if question.references] or [""]

    def predict(question: Question) -> str:
        drawn = hashlib.sha256(f"answer {seed}:{question.id}".encode()).digest()
        if drawn[0] < 256 * skill and question.references:
            return benchmark.oracle(question)
        return [*oracle, ""][int.from_bytes(drawn[1:5]) % (len(oracle) + 1)]

    return predict
