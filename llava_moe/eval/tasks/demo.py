"""Benchmark ``demo``: test images of the embedded set, each question asked alone and again beside another image.

The headline is exact match over closed questions: with the right image, with another test image of the same domain
that carries the same question text, and by the most frequent training answer to that text. Only the first is what a
reader wants to know; the other two say how much of it needs no look at the image. Open questions and the papers'
metrics are reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow.compute
import pyarrow.parquet

from llava_moe.data.conversation import ImageRef
from llava_moe.errors import UserError
from llava_moe.eval.baselines import (
    AskedPair,
    MajorityAnswers,
    count_majority,
    draw_of_each_kind,
    draw_other_images,
    draw_pairs,
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
from llava_moe.eval.metrics import (
    chartqa_relaxed_accuracy,
    docvqa_anls,
    exact_match,
    pathvqa_closed_accuracy,
    pathvqa_open_recall,
)
from llava_moe.eval.metrics.plain import plain_text
from llava_moe.eval.protocol import LLAVA_1_5, Protocol

EMBEDDED_IMAGES = Path(__file__).parents[2] / "demo" / "images"
CAVEATS = (
    "The vision tower and the language model are the demo's own, a few million parameters each. The tower was trained "
    "on the training split of these same images with their captions and answers: an in-domain tower, not a general "
    "CLIP. The language model has never met a picture, but it read captions, questions and answers of the training "
    "split as text, so it knows which answers are usual: the row without an image shows how far that goes.",
    "The medical slices come from about ten volumes and the stained tissue from one slide a stain: the scores show "
    "that the model looks at its image, and nothing about diagnosis.",
    "The charts and tables are drawn by the project from real published figures; they are not scans of documents.",
    "At 128 pixels no text can be read: questions that need reading are for models of full size.",
    "Questions about one image or about neighbouring slices are not independent, so true intervals are wider than the "
    "ones shown.",
)
# Both passes over what it draws take about a minute on two cores with the demo's own model.
DEFAULT_LIMIT = 25
_DOMAIN_ORDER = {"general": 0, "documents": 1, "medical": 2}
MIN_COMPARED = 300
# Where each answer is the reference, the other image's is too. The majority's share depends on the draw.
NO_GAP = Expected(oracle={"gap": 0.0}, empty={})


@dataclass(frozen=True)
class DemoBenchmark:
    """The embedded benchmark, drawn and paired. Make it with :func:`open_demo_benchmark`."""

    pairs: tuple[AskedPair, ...]
    others: Mapping[str, AskedPair]
    majority: MajorityAnswers
    num_test_pairs: int
    name: str = "demo"
    columns: tuple[str, ...] = COLUMNS
    protocol: Protocol = LLAVA_1_5
    limit: int | None = None
    seed: int = 0
    expected: Expected = NO_GAP

    @property
    def facts(self) -> Facts:
        """The questions are put as the embedded set trains them, behind the protocol's prefix."""
        return Facts(
            protocol=self.protocol.name,
            prompt=self.protocol.prefix + "{question}",
            wording="the embedded set's own",
            system=self.protocol.system,
            decoding=self.protocol.draws(self.seed),
            max_new_tokens=Question.max_new_tokens,
            scorer="exact match but for case, outer blanks and a full stop; the papers' metrics beside it",
            data=f"{len(self.pairs):,} of {self.num_test_pairs:,} test questions of the embedded set",
            num_questions=len(self.pairs) + len(self.others),
            domain=ALL_DOMAINS,
            seed=self.seed,
            limit=self.limit,
            draw=self._drawn(),
        )

    def oracle(self, question: Question) -> str:
        """The reference."""
        return question.references[0]

    def submission(self, answers: Mapping[str, Answer]) -> Submission | None:
        """None: every answer is scored here."""
        return None

    def questions(self) -> tuple[Question, ...]:
        """Every pair as a question about its own image, then its twin about another image where there is one."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        asked = []
        for pair in self.pairs:
            asked.append(_question(pair, pair.id, pair.images))
            if other := self.others.get(pair.id):
                asked.append(_question(pair, twin_id(pair, other), other.images))
        prefix, system, decoding = self.protocol.prefix, self.protocol.system, self.protocol.draws(self.seed)
        return tuple(
            replace(question, prompt=prefix + question.prompt, system=system, decoding=decoding) for question in asked
        )

    def score(self, question: Question, prediction: str) -> dict[str, float]:
        """Exact match, and the papers' metrics of the question's domain for questions about the right image."""
        scores = {"exact_match": exact_match(prediction, question.references)}
        if is_twin(question.id):
            return scores
        if question.domain == "documents":
            scores["chartqa_relaxed_accuracy"] = chartqa_relaxed_accuracy(prediction, question.references)
            scores["docvqa_anls"] = docvqa_anls(prediction, question.references)
        elif question.domain == "medical":
            if plain_text(question.references[0]) in ("yes", "no"):
                scores["pathvqa_closed_accuracy"] = pathvqa_closed_accuracy(prediction, question.references)
            else:
                scores["pathvqa_open_recall"] = pathvqa_open_recall(prediction, question.references)
        return scores

    def summarize(self, answers: Mapping[str, Answer]) -> tuple[ScoreRow, ...]:
        """Rows of every domain, of all together, then of every kind; a domain's headline counts closed questions."""
        # The papers' metrics belong to one domain each.
        return self.asked_twice.summarize(answers, beside=(EXACT_MATCH_ALL,))

    @cached_property
    def asked_twice(self) -> ImageSwapPairs:
        """The pairs with their baselines."""
        return ImageSwapPairs(self.pairs, self.others, self.majority)

    def notes(self) -> tuple[str, ...]:
        """What was asked and what was left out."""
        alone = sum(pair.id not in self.others for pair in self.pairs)
        draw = self._drawn()
        asked = draw or f"{len(self.pairs):,} of {self.num_test_pairs:,} test questions"
        notes = [f"{asked}, each asked alone; columns compare the same closed questions."]
        if alone:
            notes.append(f"{alone:,} questions that no other test image carries are not in the compared columns.")
        return tuple(notes)

    def _drawn(self) -> str:
        kinds = {(pair.domain, pair.kind) for pair in self.pairs}
        return draw_in_words(self.limit, len(kinds), len(self.pairs), self.num_test_pairs)


def _question(pair: AskedPair, question_id: str, images: tuple[ImageRef, ...]) -> Question:
    return Question(question_id, images, pair.question, pair.references, pair.domain, pair.kind, pair.closed)


def open_benchmark(limit: int | None, seed: int) -> DemoBenchmark:
    """The embedded benchmark; ``limit`` None is :data:`DEFAULT_LIMIT` questions of a kind or more, 0 is all of them."""
    if limit is None:
        return open_demo_benchmark(seed=seed)
    return open_demo_benchmark(limit=limit or None, min_compared=0, seed=seed)


def open_demo_benchmark(
    folder: Path = EMBEDDED_IMAGES,
    *,
    limit: int | None = DEFAULT_LIMIT,
    min_compared: int = MIN_COMPARED,
    seed: int = 0,
    split: str = "test",
) -> DemoBenchmark:
    """Read the embedded set and draw the benchmark's questions.

    Args:
        folder: where ``general.parquet``, ``documents.parquet`` and ``medical.parquet`` lie.
        limit: at most so many questions of each kind, drawn by seed; None asks all.
        min_compared: the limit is raised for a domain's closed kinds until so many are compared, if it holds them; with
            0 it holds for the kinds as they are shown, those compared first.
        seed: of the draw and of the other images.
        split: the split asked about; majority answers always come from ``train``.

    Raises:
        UserError: there is no data in the folder, or no question of that split.
    """
    files = sorted(folder.glob("*.parquet"), key=lambda file: (_DOMAIN_ORDER.get(file.stem, len(_DOMAIN_ORDER)), file))
    if not files:
        raise UserError(f"no *.parquet in {folder}: reinstall llava-moe, or name the folder of the demo images")
    stamps = tuple(_stamped(file) for file in files)
    pairs = [pair for file in stamps for pair in _read_pairs(file, split)]
    if not pairs:
        raise UserError(f"no question of split {split!r} in {folder}: choose one of train, val, test")
    majority = _count_majority(stamps)
    others = draw_other_images(pairs, seed)
    if limit is None:
        drawn = pairs
    elif min_compared:
        drawn = draw_pairs(pairs, limit, compared=others, min_compared=min_compared, seed=seed)
    else:
        drawn = draw_of_each_kind(pairs, limit, compared=others, seed=seed)
    chosen = {pair.id: others[pair.id] for pair in drawn if pair.id in others}
    return DemoBenchmark(tuple(drawn), chosen, majority, num_test_pairs=len(pairs))


# A file with its size and time of change. A command opens the benchmark several times: to check the words, to ask, and
# for the report's examples.
_Stamped = tuple[Path, int, int]


def _stamped(file: Path) -> _Stamped:
    stat = file.stat()
    return file, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=8)
def _read_pairs(stamped: _Stamped, split: str) -> tuple[AskedPair, ...]:
    return tuple(_iterate_pairs(stamped[0], split))


@lru_cache(maxsize=2)
def _count_majority(files: tuple[_Stamped, ...]) -> MajorityAnswers:
    return count_majority(trained for file, *_ in files for trained in _read_training(file))


def _iterate_pairs(file: Path, split: str) -> Iterator[AskedPair]:
    columns = ["id", "images", "conversations", "kinds", "closed", "domain", "split"]
    for row in _rows(file, columns, split):
        if len(row["images"]) != 1:
            raise UserError(f"{file}: record {row['id']} has {len(row['images'])} images, the demo has one an item")
        turns = row["conversations"]
        for index, (user, assistant) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
            yield AskedPair(
                image_id=row["id"],
                images=(row["images"][0],),
                question=_plain_question(user["text"]),
                answer=assistant["text"],
                domain=row["domain"],
                kind=row["kinds"][index],
                closed=row["closed"][index],
                index=index,
            )


def _read_training(file: Path) -> Iterator[tuple[str, str, str, str]]:
    for row in _rows(file, ["conversations", "kinds", "domain", "split"], "train"):
        turns = row["conversations"]
        for kind, user, assistant in zip(row["kinds"], turns[::2], turns[1::2], strict=True):
            yield row["domain"], _plain_question(user["text"]), kind, assistant["text"]


def _rows(file: Path, columns: list[str], split: str) -> Iterator[dict[str, Any]]:
    table = pyarrow.parquet.read_table(file, columns=columns)
    yield from table.filter(pyarrow.compute.equal(table["split"], split)).to_pylist()


def _plain_question(text: str) -> str:
    return text.replace("<image>", "").strip()
