"""Evaluation sets: the questions and images that a mixture must not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_moe.data.conversation import USER, BadRecord, ImageRef
from llava_moe.data.readers.shards import is_prepared
from llava_moe.data.readers.splits import EVERY
from llava_moe.data.records import Records, Source
from llava_moe.data.source import open_records
from llava_moe.datatools.check.scan import AskedPicture, hash_text
from llava_moe.datatools.check.text import normal_question
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.tasks import benchmark_names, open_benchmark

BLOCK = 256
SAID_OFTEN = 3
"""A line beside so many different questions is an instruction."""


@dataclass(frozen=True)
class AskedItem:
    """One question of an evaluation set: its hashes, and the places of its images among the set's."""

    name: str
    questions: tuple[int, ...]
    pictures: tuple[int, ...]


@dataclass(frozen=True)
class AskedSet:
    """An evaluation set."""

    name: str
    items: tuple[AskedItem, ...]
    pictures: tuple[AskedPicture, ...]


def open_asked(name_or_path: str, images: str | None, cache: Path, seed: int) -> AskedSet:
    """A benchmark by name (all its questions), or a data source by its path.

    Args:
        images: the folder that a path's images start from; None: the folder that the path lies in, of a prepared
            folder its own.

    Raises:
        UserError: it is neither, or holds no question.
    """
    if name_or_path in benchmark_names():
        # 0: every question, not the sample that an evaluation draws.
        found = asked_of(name_or_path, open_benchmark(name_or_path, 0, seed).questions())
    else:
        path = Path(name_or_path).expanduser()
        if "://" not in name_or_path and not path.exists():
            raise UserError(
                f"against={name_or_path}: no such evaluation set and no such file; the sets are "
                f"{', '.join(benchmark_names())}"
            )
        if images is None and not is_prepared(path):
            images = str(path if path.is_dir() else path.parent)
        source = Source(path.stem, "evaluation", name_or_path, images=images, split=EVERY)
        found = _collect(name_or_path, list(_recorded(open_records(source, cache))))
    if not found.items:
        raise UserError(f"against={name_or_path}: holds no question about an image; give an evaluation set")
    return found


def asked_of(name: str, questions: Sequence[Question]) -> AskedSet:
    """The questions of a benchmark; those without an image are left out."""
    return _collect(
        name, [_Asked(one.id, [one.prompt], [AskedPicture(ref) for ref in one.images]) for one in questions]
    )


@dataclass(frozen=True)
class _Asked:
    """One record of a set, its questions as they are written."""

    id: str
    questions: list[str]
    pictures: list[AskedPicture]


def _collect(name: str, asked: Sequence[_Asked]) -> AskedSet:
    places: dict[ImageRef | tuple[int, int], int] = {}
    pictures: list[AskedPicture] = []
    instructions = _instructions([question for one in asked for question in one.questions])
    kept = []
    for one in asked:
        own = []
        for picture in one.pictures:
            # What stands alike is opened once; encoded images of records are told apart by where they stand.
            key = (picture.row, picture.place) if picture.ref is None else picture.ref
            if key not in places:
                places[key] = len(pictures)
                pictures.append(picture)
            own.append(places[key])
        normal = {form for question in one.questions for form in _forms(question, instructions)}
        hashes = tuple(hash_text(form) for form in sorted(normal - {""}))
        if own and hashes:
            kept.append(AskedItem(one.id, hashes, tuple(own)))
    return AskedSet(name, tuple(kept), tuple(pictures))


def _instructions(questions: Sequence[str]) -> frozenset[str]:
    """Lines that many different questions stand beside: they say how to answer, and are no question themselves."""
    beside: Counter[str] = Counter()
    for question in set(questions):
        lines = {normal_question(line) for line in question.splitlines()} - {""}
        if len(lines) > 1:
            beside.update(lines)
    return frozenset(line for line, count in beside.items() if count >= SAID_OFTEN)


def _forms(question: str, instructions: frozenset[str]) -> tuple[str, str]:
    """A question as it stands, and without its instructions; normalised."""
    lines = [line for line in question.splitlines() if normal_question(line) not in instructions]
    return normal_question(question), normal_question(" ".join(lines))


def _recorded(records: Records) -> Iterator[_Asked]:
    for start in range(0, len(records), BLOCK):
        for row, entry in enumerate(records.read(start, start + BLOCK), start):
            # A question without an answer is a bad record to train on and a good one to ask.
            readable = entry if isinstance(entry.content, BadRecord) else entry.content
            pictures = [
                AskedPicture(ref, records.image_root)
                if isinstance(ref, str)
                else AskedPicture(None, records.image_root, records, row, place)
                for place, ref in enumerate(readable.images)
            ]
            yield _Asked(entry.id, [turn.text for turn in readable.turns if turn.role == USER], pictures)
