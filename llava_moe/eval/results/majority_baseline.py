"""What guessing without a model would score: the most frequent reference, of a domain or of a kind of prompt.

The answers are chosen on the very questions that are scored, so no guesser who knows the frequencies alone does better
by much: a model's score means something by its distance from these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

from llava_moe.eval.benchmark import Answer, Benchmark, Question
from llava_moe.eval.metrics.plain import plain_text

DOMAIN_GUESS = "one answer a domain"
BLIND_GUESS = "best guess by prompt"
MIN_ALIKE = 10
"""Prompts of a kind below which its most frequent answer says too much about each of them."""
_OPENING_WORDS = 2


def guessed_answers(benchmark: Benchmark, questions: Sequence[Question]) -> dict[str, dict[str, Answer]]:
    """Baseline name to question id to the answer that it gives, scored as the benchmark scores a model's.

    ``one answer a domain`` gives the most frequent reference of a question's domain; ``best guess by prompt`` that of
    prompts of the same domain and kind that begin with the same two words, or, where there are fewer than
    :data:`MIN_ALIKE` of them, of the kind, and then of the domain. Ties go to the first in the alphabet.
    """
    scored = [question for question in questions if question.references]
    return {
        DOMAIN_GUESS: _answered(benchmark, scored, [_domain]),
        BLIND_GUESS: _answered(benchmark, scored, [_opening, _kind, _domain]),
    }


def _domain(question: Question) -> Hashable:
    return question.domain


def _kind(question: Question) -> Hashable:
    return question.domain, question.kind


def _opening(question: Question) -> Hashable:
    words = tuple(plain_text(question.prompt).split()[:_OPENING_WORDS])
    return question.domain, question.kind, words


def _answered(
    benchmark: Benchmark, questions: Sequence[Question], keys: Sequence[Callable[[Question], Hashable]]
) -> dict[str, Answer]:
    counted = [_most_frequent(questions, key) for key in keys]
    answers = {}
    for question in questions:
        found = [by_key[key(question)] for key, by_key in zip(keys, counted, strict=True)]
        guess = next((text for text, num_alike in found if num_alike >= MIN_ALIKE), found[-1][0])
        score = benchmark.score(question, guess)
        answers[question.id] = Answer(question.id, guess, question.references, score)
    return answers


def _most_frequent(
    questions: Sequence[Question], key: Callable[[Question], Hashable]
) -> Mapping[Hashable, tuple[str, int]]:
    """Key to its most frequent reference, as it is written first, and how many questions have the key."""
    counts: dict[Hashable, Counter[str]] = {}
    written: dict[str, str] = {}
    sizes: Counter[Hashable] = Counter()
    for question in questions:
        sizes[key(question)] += 1
        for reference in question.references:
            plain = plain_text(reference)
            written.setdefault(plain, reference)
            counts.setdefault(key(question), Counter())[plain] += 1
    return {
        one: (written[min(of_key.items(), key=lambda item: (-item[1], item[0]))[0]], sizes[one])
        for one, of_key in counts.items()
    }
