"""A file of one's own read as questions, by the readers of training: each record's last answer is the reference."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_moe.data.auto_format import reading_formats, tell_format
from llava_moe.data.conversation import IMAGE_PLACEHOLDER, BadRecord, Conversation, ImageRef, StoredImage
from llava_moe.data.images.paths import find_image
from llava_moe.data.images.roots import guess_image_root
from llava_moe.data.readers.files import is_address
from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.row import optional_text
from llava_moe.data.readers.splits import settled
from llava_moe.data.records import Source, entry_of
from llava_moe.data.source import find_files, prepared_folder
from llava_moe.errors import UserError
from llava_moe.eval.baselines import TWIN_MARK
from llava_moe.eval.benchmark import ALL_DOMAINS
from llava_moe.eval.own.names import name_of_file
from llava_moe.eval.own.options import is_listed

NO_DOMAIN = "other"
"""The domain of records that name none, where others of the file do."""
ASKED_SPLITS = ("test", "val")
"""Of a file that says splits, the first of these is asked; where it says neither, every record is."""


@dataclass(frozen=True)
class OwnRecord:
    """One question of a file.

    Attributes:
        id: the record's, unique in the file.
        place: how the record is called in messages.
        conversation: the turns, the last of which is the first reference; image paths are as the file has them.
        references: the answers that count.
        lists_answer: one of them stands among the options that the question lists.
        split: by its one name; None where the file says none.
    """

    id: str
    place: str
    conversation: Conversation
    references: tuple[str, ...]
    lists_answer: bool
    split: str | None

    @property
    def question(self) -> str:
        """What is asked, in words alone: the last question."""
        return self.conversation.turns[-2].text.replace(IMAGE_PLACEHOLDER, "").strip()

    @property
    def carried(self) -> str:
        """What is equal for records that ask the same of other images: all turns up to the answer, in words alone."""
        earlier = (turn.text.replace(IMAGE_PLACEHOLDER, "").strip() for turn in self.conversation.turns[:-2])
        return "\n".join([*earlier, self.question])


@dataclass(frozen=True)
class OwnFile:
    """What a file asks.

    Attributes:
        asked: the records that are asked, their images as paths from the current folder, or as bytes.
        others: those of other splits, whose answers may be counted.
        content: 16 hex digits over all of the records.
    """

    asked: tuple[OwnRecord, ...]
    others: tuple[OwnRecord, ...]
    content: str


def read_own_file(path: str, images: str | None) -> OwnFile:
    """Read a file of questions, and find the images of those that are asked.

    Args:
        path: a file, or whatever else a training source may name; of raw records.
        images: the folder that image paths start from; None: it is looked for near the file.

    Raises:
        UserError: the file cannot be read or holds no record, a record cannot be asked, or an image is not there.
    """
    name = name_of_file(path)
    source = Source(name, ALL_DOMAINS, os.path.expanduser(path), images=images)
    try:
        records = _told_apart(path, list(_records(_with_format(source))))
    except UserError as error:
        raise UserError(f"benchmarks: {str(error).replace(f'data source {name!r}: ', '')}") from error
    if not records:
        raise UserError(f"benchmarks: {path} holds no records; check the path")
    splits = {record.split for record in records}
    read = next((split for split in ASKED_SPLITS if split in splits), None)
    asked = [record for record in records if read in (None, record.split)]
    others = [record for record in records if read not in (None, record.split)]
    return OwnFile(_with_images(path, source, asked), tuple(others), _content(records))


def _with_format(source: Source) -> Source:
    """The source with its format, told by keys, else by what reads its first records."""
    if prepared_folder(source) is not None:
        raise UserError(f"{source.path} is prepared for training: name the file that it was made of")
    try:
        return replace(source, format=tell_format(source, find_files(source)))
    except UserError:
        for name in reading_formats(source.path):
            return replace(source, format=name)
        raise


def _records(source: Source) -> Iterator[OwnRecord]:
    reader, number = FORMATS[source.format], 0
    for file in reader.find(source.path):
        for content in reader.records(file):
            row = row_of(reader, content, number)
            number += 1
            place = f"{file.path}, record {number}" + (f" (id {row['id']:.80})" if row["id"] != str(number - 1) else "")
            for turn in row["turns"]:
                turn.pop("is_supervised", None)  # what is not to be trained on may well be asked
            shown: tuple[ImageRef, ...] = tuple(
                image["path"] if image["bytes"] is None else image["bytes"] for image in row["images"]
            )
            entry = entry_of(row, shown, number - 1, source)
            try:
                if isinstance(entry.content, BadRecord):
                    raise entry.content
                split = settled(row["split"] or file.split) if row["split"] or file.split else None
                yield _asked(place, entry.content, content, split)
            except BadRecord as fault:
                raise UserError(f"{place}: {fault.detail}; fix that record, or take it out") from fault


def _asked(place: str, conversation: Conversation, raw: Mapping[str, Any], split: str | None) -> OwnRecord:
    """A record as a question.

    Raises:
        BadRecord: it asks nothing in words, or what it says beside its turns is odd.
    """
    if TWIN_MARK in conversation.id:
        raise BadRecord("odd_id", f"its id holds {TWIN_MARK}, which marks questions beside another image")
    domain = (optional_text(raw.get("domain"), "domain") or "").strip()
    if domain == ALL_DOMAINS:
        raise BadRecord("odd_domain", f"its domain is {ALL_DOMAINS}, which is what all domains together are called")
    references = (conversation.turns[-1].text.strip(), *_more_references(raw.get("references")))
    kept = replace(conversation, domain=domain)
    record = OwnRecord(conversation.id, place, kept, tuple(dict.fromkeys(references)), False, split)
    if not record.question:
        raise BadRecord("empty_question", "its last question has no words")
    return replace(record, lists_answer=is_listed(record.references, record.question, raw))


def _more_references(value: Any) -> Iterator[str]:
    """The texts of the key ``references``: other answers that count."""
    if value is None:
        return
    if not isinstance(value, list | tuple):
        raise BadRecord("odd_references", f"references is {type(value).__name__}, not a list of the answers that count")
    for item in value:
        text = (optional_text(item, "references") or "").strip()
        if not text:
            raise BadRecord("odd_references", "references holds an empty answer")
        yield text


def _told_apart(path: str, records: Sequence[OwnRecord]) -> list[OwnRecord]:
    """The records with ids of their own: those that share one get their number in the file behind it."""
    counts = Counter(record.id for record in records)
    named = [
        replace(record, id=f"{record.id}#{number}") if counts[record.id] > 1 else record
        for number, record in enumerate(records, start=1)
    ]
    has_domains = any(record.conversation.domain for record in named)
    default = NO_DOMAIN if has_domains else ALL_DOMAINS
    return [
        replace(one, conversation=replace(one.conversation, domain=one.conversation.domain or default)) for one in named
    ]


def _with_images(path: str, source: Source, records: Sequence[OwnRecord]) -> tuple[OwnRecord, ...]:
    """The records with image paths that start from the current folder.

    Raises:
        UserError: an image is not there; the line names it, its record, and how many others are missing.
    """
    paths: dict[str, OwnRecord] = {}
    for record in records:
        for ref in record.conversation.images:
            if isinstance(ref, str):
                paths.setdefault(ref, record)
    if not paths:
        return tuple(records)
    root = source.images
    if root is None and not is_address(path):
        place = Path(source.path)
        near = place if place.is_dir() else place.parent
        root = guess_image_root([*paths], near, [source.name, place.stem, f"{place.stem}_images"]).folder
    missing = [(record, fault) for ref, record in paths.items() if (fault := _missing(ref, root)) is not None]
    if missing:
        record, fault = missing[0]
        more = f" ({len(missing):,} of {len(paths):,} images are missing)" if len(missing) > 1 else ""
        raise UserError(
            f"benchmarks: {record.place}: {fault.detail}{more}; put it there, or give images=FOLDER (eval.images= of a "
            "training)"
        )

    def placed(ref: ImageRef) -> ImageRef:
        return os.path.join(root or "", ref) if isinstance(ref, str) else ref

    return tuple(
        replace(one, conversation=replace(one.conversation, images=tuple(map(placed, one.conversation.images))))
        for one in records
    )


def _missing(ref: str, root: str | None) -> BadRecord | None:
    try:
        find_image(ref, root)
    except BadRecord as fault:
        return fault
    return None


def _content(records: Sequence[OwnRecord]) -> str:
    """16 hex digits over what the records ask and how they are scored, image paths as the file has them."""
    digest = hashlib.sha256()
    for record in records:
        one = record.conversation
        shown = [hashlib.sha256(ref).hexdigest() if isinstance(ref, bytes) else _path_of(ref) for ref in one.images]
        turns = [(turn.role, turn.text) for turn in one.turns]
        kept = (record.id, shown, turns, record.references, record.lists_answer, one.domain, one.task, one.system)
        digest.update(repr((*kept, record.split)).encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()[:16]


def _path_of(ref: str | StoredImage) -> str:
    return ref if isinstance(ref, str) else ref.sha256
