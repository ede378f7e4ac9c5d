"""One's own questions as a benchmark: scored by exact match and token F1, beside the demo's three baselines.

A closed question is one whose answer stands among the options that it lists, or is that of several records that ask
the same. Of these the ones that another image carries make the headline: they are asked again beside that image. The
most frequent answer is that of other splits where the file has them, else of the very records that are asked, so that
nobody who knows the frequencies alone does better by much.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from llava_moe.data.conversation import IMAGE_PLACEHOLDER, USER, Turn
from llava_moe.errors import UserError
from llava_moe.eval.baselines import (
    AskedPair,
    MajorityAnswers,
    count_majority,
    draw_of_each_kind,
    draw_other_images,
    is_twin,
    twin_id,
)
from llava_moe.eval.benchmark import (
    ALL_DOMAINS,
    Answer,
    Expected,
    Facts,
    Question,
    ScoreRow,
    Submission,
    draw_in_words,
)
from llava_moe.eval.image_swap_pairs import COLUMNS, EXACT_MATCH_ALL, ImageSwapPairs
from llava_moe.eval.item_checks import unreadable_image
from llava_moe.eval.metrics import exact_match, squad_f1
from llava_moe.eval.metrics.plain import plain_text
from llava_moe.eval.metrics.squad import normalize_squad
from llava_moe.eval.own.names import name_of_file
from llava_moe.eval.own.reading import OwnFile, OwnRecord, read_own_file
from llava_moe.eval.protocol import Protocol

TOKEN_F1 = "token_f1"
ALONE = ("exact_match", TOKEN_F1, "majority_answer", "gap_over_majority")
"""The columns where no question is asked twice."""
KIND = "question"
"""The kind of records that name no task."""
_OPENING_MARKS = re.compile(rf"(?:\s*{re.escape(IMAGE_PLACEHOLDER)}\s*)*")


@dataclass(frozen=True)
class OwnBenchmark:
    """A file's questions, drawn and paired. Make it with :func:`open_own`.

    Attributes:
        records: by id, those of the pairs.
        place: the path of the file; ``images`` the folder of its images, where the user named one.
        content: fingerprint of the file's records.
        num_read: questions of the file, before the draw; ``counted``: whose answers the majority is of.
    """

    name: str
    asked_twice: ImageSwapPairs
    records: Mapping[str, OwnRecord]
    place: str
    images: str | None
    content: str
    num_read: int
    counted: str
    protocol: Protocol
    limit: int | None
    seed: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The demo's, or where no question is asked twice those that need no other image."""
        return COLUMNS if self.asked_twice.others else ALONE

    @property
    def expected(self) -> Expected:
        """Where each answer is the reference, the majority's share depends on the file."""
        return Expected(oracle={"gap": 0.0}, empty={})

    @property
    def facts(self) -> Facts:
        """The questions are put as the file has them, behind the protocol's prefix."""
        pairs, domains = self.asked_twice.pairs, {pair.domain for pair in self.asked_twice.pairs}
        return Facts(
            protocol=self.protocol.name,
            prompt=self.protocol.prefix + "{question}",
            wording="the file's own",
            system=self.protocol.system,
            decoding=self.protocol.draws(self.seed),
            max_new_tokens=self.protocol.max_new_tokens,
            scorer="exact match but for case, outer blanks and a full stop; SQuAD's token F1 beside it",
            data=f"{len(pairs):,} of {self.num_read:,} questions of the file {self.name}",
            num_questions=len(pairs) + len(self.asked_twice.others),
            domain=domains.pop() if len(domains) == 1 else ALL_DOMAINS,
            place=self.place,
            seed=self.seed,
            limit=self.limit,
            draw=self._drawn(),
            content=self.content,
            images=self.images or "",
        )

    def questions(self) -> tuple[Question, ...]:
        """Every question beside its own images, then beside another record's where it is asked twice."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        asked = []
        for pair in self.asked_twice.pairs:
            asked.append(self._question(pair, pair.id, pair))
            if (other := self.asked_twice.others.get(pair.id)) is not None:
                asked.append(self._question(pair, twin_id(pair, other), other))
        return tuple(asked)

    def _question(self, pair: AskedPair, question_id: str, shown: AskedPair) -> Question:
        record, protocol = self.records[pair.id], self.protocol
        system = record.conversation.system
        return Question(
            id=question_id,
            images=shown.images,
            prompt=protocol.prefix + record.question,
            references=pair.references,
            domain=pair.domain,
            kind=pair.kind,
            closed=pair.closed,
            max_new_tokens=protocol.max_new_tokens,
            decoding=protocol.draws(self.seed),
            system=protocol.system if system is None else system,
            turns=asked_turns(record.conversation.turns[:-1], protocol.prefix),
        )

    def oracle(self, question: Question) -> str:
        """The reference."""
        return question.references[0]

    def score(self, question: Question, prediction: str) -> dict[str, float]:
        """Exact match, and token F1 for questions beside their own images."""
        scores = {"exact_match": exact_match(prediction, question.references)}
        return scores if is_twin(question.id) else scores | {TOKEN_F1: token_f1(prediction, question.references)}

    def summarize(self, answers: Mapping[str, Answer]) -> tuple[ScoreRow, ...]:
        """Rows of every domain that the file names, of all together, then of every kind."""
        return self.asked_twice.summarize(answers, beside=(EXACT_MATCH_ALL, TOKEN_F1))

    def notes(self) -> tuple[str, ...]:
        """What was asked, what the columns count, and whose answers the majority is of."""
        pairs, others = self.asked_twice.pairs, self.asked_twice.others
        asked = self._drawn() or f"{len(pairs):,} questions of the file {self.name}"
        majority = f"The majority is the most frequent answer to a question's words, counted on {self.counted}."
        if others:
            told = f"columns compare the {len(others):,} closed ones that another image carries"
            return (f"{asked}; {told}. {majority}",)
        return (f"{asked}; none is closed and carried by another image, so that none is asked twice. {majority}",)

    def submission(self, answers: Mapping[str, Answer]) -> Submission | None:
        """None: every answer is scored here."""
        return None

    def _drawn(self) -> str:
        pairs = self.asked_twice.pairs
        return draw_in_words(self.limit, len({(one.domain, one.kind) for one in pairs}), len(pairs), self.num_read)


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """SQuAD's token F1 with the best reference; the letter A, of which SQuAD leaves nothing, by exact match."""
    return max(
        squad_f1(prediction, [one]) if normalize_squad(one) else exact_match(prediction, [one]) for one in references
    )


def asked_turns(turns: Sequence[Turn], prefix: str) -> tuple[Turn, ...]:
    """Turns that end with a question, the prefix before its words; none where the question alone says it all.

    That is one turn with an image at most, which stands in front as in training.
    """
    *earlier, last = turns
    if not earlier and last.text.count(IMAGE_PLACEHOLDER) < 2:
        return ()
    opening = _OPENING_MARKS.match(last.text)
    end = 0 if opening is None else opening.end()
    return (*earlier, Turn(USER, f"{last.text[:end]}{prefix}{last.text[end:]}"))


def open_own(
    path: str, images: str | None, protocol: Protocol, limit: int | None = None, seed: int = 0
) -> OwnBenchmark:
    """Read a file of questions and draw from it.

    Args:
        images: the folder that image paths start from; None: it is looked for near the file.
        limit: at most so many questions of each kind in each domain, those asked twice first; None or 0 takes all.
        seed: of the draw and of the other images.

    Raises:
        UserError: as :func:`~llava_moe.eval.own.reading.read_own_file`, or an image cannot be opened.
    """
    file = read_own_file(path, images)
    pairs = asked_pairs(file.asked)
    closed = {pair.id for pair in pairs if pair.closed}
    others = {name: other for name, other in draw_other_images(pairs, seed).items() if name in closed}
    drawn = draw_of_each_kind(pairs, limit, compared=others, seed=seed) if limit else pairs
    twice = {pair.id: others[pair.id] for pair in drawn if pair.id in others}
    records = {record.id: record for record in file.asked}
    shown = [records[pair.id] for pair in (*drawn, *twice.values())]
    if (found := unreadable_image((one.id, one.conversation.images) for one in shown)) is not None:
        asked, fault = found
        raise UserError(f"benchmarks: {records[asked].place}: {fault.detail}; fix that image, or take the record out")
    return OwnBenchmark(
        name=name_of_file(path),
        asked_twice=ImageSwapPairs(tuple(drawn), twice, _majority(file)),
        records={pair.id: records[pair.id] for pair in drawn},
        place=path,
        images=images,
        content=file.content,
        num_read=len(pairs),
        counted="the file's other splits" if file.others else "the very questions that are asked",
        protocol=protocol,
        limit=limit or None,
        seed=seed,
    )


def asked_pairs(records: Sequence[OwnRecord]) -> list[AskedPair]:
    """The records as pairs of question and answer, each known to be closed or not."""
    alike = Counter(_said(record) for record in records)
    return [
        AskedPair(
            image_id=record.id,
            images=record.conversation.images,
            question=record.carried,
            answer=record.references[0],
            domain=record.conversation.domain,
            kind=record.conversation.task or KIND,
            closed=record.lists_answer or alike[_said(record)] > 1,
            others=record.references[1:],
        )
        for record in records
    ]


def _said(record: OwnRecord) -> tuple[str, str, str]:
    return record.conversation.domain, record.carried, plain_text(record.references[0])


def _majority(file: OwnFile) -> MajorityAnswers:
    counted = [
        (one.conversation.domain, one.carried, one.conversation.task or KIND, one.references[0])
        for one in file.others or file.asked
    ]
    # Of a question that is asked once its kind's answer is taken: its own would be right for free.
    return count_majority(counted, min_alike=1 if file.others else 2)
