"""Two honest baselines: the most frequent answer, and the same model shown another image of the question."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llava_moe.data.conversation import ImageRef
from llava_moe.eval.metrics.plain import plain_text

TWIN_MARK = "@other:"


@dataclass(frozen=True)
class AskedPair:
    """A question-answer pair about an image, or about several, as a benchmark's data holds it.

    Attributes:
        image_id: of the record that the images stand in.
        question: what must be equal for two pairs to carry the same question.
        index: the pair's place in its conversation; None where a record is one pair.
        others: more answers that count.
    """

    image_id: str
    images: tuple[ImageRef, ...]
    question: str
    answer: str
    domain: str
    kind: str
    closed: bool
    index: int | None = None
    others: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The record's id and the pair's place in its conversation."""
        return self.image_id if self.index is None else f"{self.image_id}#{self.index}"

    @property
    def references(self) -> tuple[str, ...]:
        """All answers that count, the first one first."""
        return (self.answer, *self.others)


def twin_id(pair: AskedPair, other: AskedPair) -> str:
    """Id of the pair's question asked beside the other pair's image."""
    return f"{pair.id}{TWIN_MARK}{other.image_id}"


def is_twin(question_id: str) -> bool:
    """Whether the id is of a question asked beside another image."""
    return TWIN_MARK in question_id


@dataclass(frozen=True)
class MajorityAnswers:
    """The most frequent answer to a question text, and to a kind of question for texts that were not counted."""

    by_question: Mapping[tuple[str, str], str]
    by_kind: Mapping[tuple[str, str], str]

    def answer(self, pair: AskedPair) -> str:
        """What somebody answers who knows the answers counted and never sees an image; "" if the kind is unknown."""
        by_kind = self.by_kind.get((pair.domain, pair.kind), "")
        return self.by_question.get((pair.domain, pair.question), by_kind)


def count_majority(counted: Iterable[tuple[str, str, str, str]], min_alike: int = 1) -> MajorityAnswers:
    """Majority answers of ``(domain, question, kind, answer)`` pairs; ties go to the first in the alphabet.

    Answers that exact match cannot tell apart (case, a trailing full stop) are counted together.

    Args:
        min_alike: pairs of one question text below which the text has no answer of its own.
    """
    questions: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    kinds: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for domain, question, kind, answer in counted:
        plain = plain_text(answer)
        questions[domain, question][plain] += 1
        kinds[domain, kind][plain] += 1
    questions = {key: answers for key, answers in questions.items() if answers.total() >= min_alike}
    return MajorityAnswers(_most_frequent(questions), _most_frequent(kinds))


def _most_frequent(counts: Mapping[tuple[str, str], Counter[str]]) -> dict[tuple[str, str], str]:
    return {key: min(of_key.items(), key=lambda item: (-item[1], item[0]))[0] for key, of_key in counts.items()}


def draw_other_images(pairs: Sequence[AskedPair], seed: int) -> dict[str, AskedPair]:
    """For each pair, a pair of another image of the domain that carries the same question text, drawn by ``seed``.

    The other image may have the same true answer: it is what chance gives somebody who looks at the wrong picture.
    Images with the same bytes, or the same path, count as one image; a pair of several has as many others. The draw of
    a pair depends on the seed, the pair's id and the candidates alone.

    Returns:
        Pair id to the pair whose image is shown instead. Pairs whose question no other image carries are not in it.
    """
    carriers: dict[tuple[str, str, int], list[AskedPair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: pair.id):
        carriers[_carried(pair)].append(pair)
    # Where the pairs of each image stand among the carriers: a question may be carried by thousands of pairs.
    places: dict[tuple[str, str, int], dict[tuple[ImageRef, ...], list[int]]] = {}
    for key, group in carriers.items():
        places[key] = defaultdict(list)
        for place, pair in enumerate(group):
            places[key][pair.images].append(place)
    others = {}
    for pair in pairs:
        group = carriers[_carried(pair)]
        own = places[_carried(pair)][pair.images]
        if len(own) < len(group):
            others[pair.id] = group[_skip(own, _draw(seed, pair.id) % (len(group) - len(own)))]
    return others


def _carried(pair: AskedPair) -> tuple[str, str, int]:
    return pair.domain, pair.question, len(pair.images)


def _skip(taken: Sequence[int], number: int) -> int:
    """The ``number``-th place, from 0, that is not ``taken``; what is taken rises."""
    for place in taken:
        if place > number:
            break
        number += 1
    return number


def _draw(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8])


def draw_pairs(
    pairs: Sequence[AskedPair], limit: int, *, compared: Container[str], min_compared: int, seed: int
) -> list[AskedPair]:
    """At most ``limit`` pairs of each kind, drawn by ``seed``, in the order of ``pairs``.

    Args:
        pairs: what to draw from.
        limit: of one kind in one domain.
        compared: ids of the pairs that another image carries too; closed ones among them make a domain's headline.
        min_compared: where the limit leaves a domain fewer such closed pairs, it is raised for them just far enough, or
            until all are taken.
        seed: of the draw.
    """
    groups: dict[tuple[str, bool], dict[str, list[AskedPair]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        groups[pair.domain, pair.closed and pair.id in compared][pair.kind].append(pair)
    drawn: set[str] = set()
    for (_, in_headline), kinds in groups.items():
        sizes = [len(group) for group in kinds.values()]
        allowed = _raise_limit(sizes, limit, min_compared) if in_headline else limit
        for group in kinds.values():
            drawn.update(pair.id for pair in sorted(group, key=lambda pair: _draw(seed, pair.id))[:allowed])
    return [pair for pair in pairs if pair.id in drawn]


def draw_of_each_kind(
    pairs: Sequence[AskedPair], limit: int, *, compared: Container[str], seed: int
) -> list[AskedPair]:
    """At most ``limit`` pairs of each kind in each domain, drawn by ``seed``, those compared first."""
    kinds: dict[tuple[str, str], list[AskedPair]] = defaultdict(list)
    for pair in pairs:
        kinds[pair.domain, pair.kind].append(pair)
    drawn = {
        pair.id
        for group in kinds.values()
        for pair in sorted(group, key=lambda pair: (pair.id not in compared, _draw(seed, pair.id)))[:limit]
    }
    return [pair for pair in pairs if pair.id in drawn]


def _raise_limit(sizes: Sequence[int], limit: int, minimum: int) -> int:
    while sum(min(size, limit) for size in sizes) < minimum and limit < max(sizes, default=0):
        limit += 1
    return limit
