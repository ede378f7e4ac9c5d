"""Benchmarks that others published: what a page in ``tasks/`` declares, and the benchmark it becomes under a protocol.

A page reads its source's files into :class:`Item`, words them for each protocol and says how answers are scored. What
all have in common is here: drawing, unique ids, facts, rows by part and for all, refusing incomplete data.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from llava_moe.data.conversation import IMAGE_PLACEHOLDER, ImageRef
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import (
    ALL_DOMAINS,
    ONE_AND_ZERO,
    Answer,
    Expected,
    Facts,
    Measure,
    Question,
    ScoreRow,
    Submission,
    draw_in_words,
)
from llava_moe.eval.download import Download
from llava_moe.eval.intervals import mean_of
from llava_moe.eval.item_checks import misfit, unreadable_image
from llava_moe.eval.protocol import MIXLORA, Protocol, Wording


@dataclass(frozen=True)
class Item:
    """One question as its source has it.

    Attributes:
        id: unique in the benchmark.
        words: what fills the places of a wording.
        references: answers that count; none where the source keeps them to itself.
        part: what results are split by: ``human``, ``adversarial``; :data:`ALL_DOMAINS` where there are no parts.
        kind: a finer sort of question.
        closed: the answer is one of few.
        group: items with the same are drawn together: the rotations of one question, the questions of one image.
        choices: letter to option text, of a multiple-choice question.
        is_ready: the question is a whole prompt, as MixLoRA's files hold them.
    """

    id: str
    images: tuple[ImageRef, ...]
    words: Mapping[str, str]
    references: tuple[str, ...]
    part: str = ALL_DOMAINS
    kind: str = "question"
    closed: bool = False
    group: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    is_ready: bool = False


Scored = Sequence[tuple[Item, Answer]]


def mean_scores(scored: Scored) -> dict[str, Measure]:
    """The mean of every score that an answer has."""
    by_name: dict[str, list[float]] = {}
    for _, answer in scored:
        for name, score in answer.score.items():
            by_name.setdefault(name, []).append(score)
    return {name: mean_of(scores) for name, scores in by_name.items()}


@dataclass(frozen=True)
class Scorer:
    """One way to score a benchmark's answers.

    Attributes:
        name: what results call it, with its source.
        columns: the headline measures in order.
        score: scores of one prediction by name.
        expected: what oracle and empty answers must come to, all questions together.
        measure_part: measures of one part.
        measure_all: measures of all parts together; None: as one part.
    """

    name: str
    columns: tuple[str, ...]
    score: Callable[[Item, str], dict[str, float]]
    expected: Expected = ONE_AND_ZERO
    measure_part: Callable[[Scored], dict[str, Measure]] = mean_scores
    measure_all: Callable[[Scored], dict[str, Measure]] | None = None


def first_reference(item: Item) -> str:
    """The first of an item's references."""
    return item.references[0]


@dataclass(frozen=True)
class Published:
    """What a page declares.

    Attributes:
        domain: ``general``, ``documents``, ``medical`` or ``all``.
        remedy: how to get the data, as a clause.
        read: the items of a download, in order.
        scorers: protocol to scorer; ``""`` is every other protocol's.
        wordings: protocol to wording; protocols that are not named use their own.
        known: number of questions to what is known of data of that size.
        folder: of the data below the benchmarks' root, where it is not the benchmark's name.
        notes: sentences a reader of the table needs.
        oracle: the answer to an item that should score highest.
        submission: the file for an evaluation server, from answers to items without references.
        answers: the only references there can be, in lower case; None: any, or an item's choices.
        parts: the only parts there can be; None: any.
    """

    domain: str
    remedy: str
    read: Callable[[Download], Iterable[Item]]
    scorers: Mapping[str, Scorer]
    wordings: Mapping[str, Wording] = field(default_factory=dict)
    known: Mapping[int, str] = field(default_factory=dict)
    folder: str | None = None
    notes: tuple[str, ...] = ()
    oracle: Callable[[Item], str] = first_reference
    submission: Callable[[Scored], Submission] | None = None
    answers: Collection[str] | None = None
    parts: Collection[str] | None = None


@dataclass(frozen=True)
class PublishedBenchmark:
    """A page under a protocol, with its items drawn. Make it with :func:`open_published`."""

    name: str
    page: Published
    protocol: Protocol
    items: Mapping[str, Item]
    num_read: int
    parts_read: Mapping[str, int]
    place: str
    limit: int | None
    seed: int

    @property
    def wording(self) -> Wording:
        """How questions are written under the protocol."""
        return self.page.wordings.get(self.protocol.name, self.protocol.wording)

    @property
    def scorer(self) -> Scorer:
        """How answers are scored under the protocol."""
        return self.page.scorers.get(self.protocol.name) or self.page.scorers[""]

    @property
    def columns(self) -> tuple[str, ...]:
        """The headline measures."""
        return self.scorer.columns

    @property
    def expected(self) -> Expected:
        """What oracle and empty answers must come to."""
        return self.scorer.expected

    @property
    def facts(self) -> Facts:
        """What the score cannot be compared without."""
        return Facts(
            protocol=self.protocol.name,
            prompt=self.protocol.prefix + self.wording.template,
            wording=self.wording.source,
            system=self.protocol.system,
            decoding=self.protocol.draws(self.seed),
            max_new_tokens=self.wording.max_new_tokens or self.protocol.max_new_tokens,
            scorer=self.scorer.name,
            data=self._data(),
            num_questions=len(self.items),
            domain=self.page.domain,
            place=self.place,
            seed=self.seed,
            limit=self.limit,
            draw=self._drawn(),
        )

    def questions(self) -> tuple[Question, ...]:
        """Every drawn item as a question, in the source's order."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        facts = self.facts
        return tuple(
            Question(
                id=item.id,
                images=item.images,
                prompt=self.protocol.prefix + _write(self.wording.template, item.words, bool(item.images)),
                references=item.references,
                domain=item.part,
                kind=item.kind,
                closed=item.closed,
                max_new_tokens=facts.max_new_tokens,
                decoding=facts.decoding,
                system=facts.system,
            )
            for item in self.items.values()
        )

    def oracle(self, question: Question) -> str:
        """The answer that should score highest."""
        return self.page.oracle(self.items[question.id])

    def score(self, question: Question, prediction: str) -> dict[str, float]:
        """Scores of one prediction; none where the source keeps its answers to itself."""
        item = self.items[question.id]
        return self.scorer.score(item, prediction) if item.references else {}

    def summarize(self, answers: Mapping[str, Answer]) -> tuple[ScoreRow, ...]:
        """A row for every part, where there are several, and one for all."""
        scored = [(item, answers[item.id]) for item in self.items.values() if item.references]
        if not scored:
            return ()
        parts: dict[str, list[tuple[Item, Answer]]] = {}
        for pair in scored:
            parts.setdefault(pair[0].part, []).append(pair)
        rows = [
            ScoreRow(part, None, None, self.scorer.measure_part(of_part))
            for part, of_part in parts.items()
            if part != ALL_DOMAINS
        ]
        measure_all = self.scorer.measure_all or self.scorer.measure_part
        return (*rows, ScoreRow(ALL_DOMAINS, None, None, measure_all(scored)))

    def notes(self) -> tuple[str, ...]:
        """Protocol, data and scorer in a sentence, then the page's own notes."""
        draw = self._drawn()
        drawn = f"Drawn by {draw}. " if draw else ""
        said = f"{drawn}Protocol {self.protocol.name}, scorer: {self.scorer.name}, data: {self._data()}."
        return (said, *self.page.notes)

    def submission(self, answers: Mapping[str, Answer]) -> Submission | None:
        """The file for the evaluation server, if the source keeps its answers to itself."""
        unscored = [(item, answers[item.id]) for item in self.items.values() if not item.references]
        return self.page.submission(unscored) if unscored and self.page.submission else None

    def _drawn(self) -> str:
        return draw_in_words(
            self.limit,
            len({(item.part, item.kind) for item in self.items.values()}),
            len(self.items),
            self.num_read,
            grouped=any(item.group for item in self.items.values()),
        )

    def _data(self) -> str:
        known = self.page.known.get(self.num_read, "no published variant of this size is known")
        parts = ", ".join(f"{part} {count:,}" for part, count in self.parts_read.items() if part != ALL_DOMAINS)
        return f"{self.num_read:,} questions ({known})" + (f": {parts}" if parts else "")


def open_published(
    name: str, page: Published, place: str, cache: Path, protocol: Protocol, limit: int | None, seed: int
) -> PublishedBenchmark:
    """Read a page's data and draw from it; all of it is judged here, before a model is asked anything.

    Args:
        limit: at most so many groups of items of each kind of each part, drawn by seed; None or 0 takes all.

    Raises:
        UserError: the data is missing, damaged or incomplete, an id stands twice, an answer is none that there can
            be, or an image of those that are drawn is none.
    """
    download = Download(name, place, cache, page.remedy)
    items: dict[str, Item] = {}
    try:
        for item in page.read(download):
            at = f"benchmark {name}: {download.reading or place}"
            if told := misfit(item, page.answers, page.parts):
                raise UserError(f"{at}: {told}; fix that record, or fetch the file again")
            if item.id in items:
                raise UserError(f"{at}: question id {item.id!r} stands twice; remove one, answers are kept by id")
            items[item.id] = replace(item, images=tuple(map(download.settled, item.images)))
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"benchmark {name}: {download.reading or place} is not as its source publishes it "
            f"({type(error).__name__}: {str(error)[:100]}); {page.remedy}"
        ) from error
    if not items:
        raise UserError(f"benchmark {name}: {place} holds no question; {page.remedy}")
    if protocol is not MIXLORA and any(item.is_ready for item in items.values()):
        raise UserError(
            f"benchmark {name}: {place} holds MixLoRA's own files, whose questions are whole prompts; add "
            "protocol=mixlora, or name the benchmark's own data"
        )
    download.refuse_missing(len(items))
    drawn = _draw(items, limit, seed) if limit else items
    if (found := unreadable_image((item.id, item.images) for item in drawn.values())) is not None:
        asked, fault = found
        raise UserError(f"benchmark {name}: question {asked}: {fault.detail}; {page.remedy}")
    if page.submission and (unscored := [item for item in drawn.values() if not item.references]):
        _try_submission(name, page.submission, unscored)
    parts = Counter(item.part for item in items.values())
    return PublishedBenchmark(name, page, protocol, drawn, len(items), dict(parts), place, limit, seed)


def _try_submission(name: str, submission: Callable[[Scored], Submission], items: Sequence[Item]) -> None:
    try:
        submission([(item, Answer(item.id, "", (), {})) for item in items])
    except ValueError as error:
        raise UserError(
            f"benchmark {name}: no file for its evaluation server can be written of these questions ({error}); fix "
            "their ids, which it takes as numbers"
        ) from error


def _draw(items: Mapping[str, Item], limit: int, seed: int) -> dict[str, Item]:
    kind_of: dict[tuple[str, str], str] = {}
    groups: dict[tuple[str, str], set[str]] = {}
    for item in items.values():
        name = item.group or item.id
        # A group stands under the kind of its first item, so that it is drawn as a whole.
        kind = kind_of.setdefault((item.part, name), item.kind)
        groups.setdefault((item.part, kind), set()).add(name)
    chosen = {
        (part, name)
        for (part, _), found in groups.items()
        for name in sorted(found, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())[:limit]
    }
    return {item.id: item for item in items.values() if (item.part, item.group or item.id) in chosen}


def _write(template: str, words: Mapping[str, str], has_images: bool) -> str:
    text = template.format_map(words)
    # Published files mark their images so; a question without one speaks of the word.
    return (text.replace(IMAGE_PLACEHOLDER, "") if has_images else text).strip()
