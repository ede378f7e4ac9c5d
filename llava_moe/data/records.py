"""What a source of records is, and what its records are to the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from llava_moe.data.conversation import (
    ASSISTANT,
    IMAGE_PLACEHOLDER,
    SYSTEM,
    UNREAD_MEDIA,
    USER,
    BadRecord,
    Conversation,
    ImageRef,
    Turn,
    check_images,
    settle_turns,
)
from llava_moe.data.images.reading import is_value_range
from llava_moe.data.readers.formats import FORMATS
from llava_moe.data.readers.media_tags import media_tag
from llava_moe.data.readers.row import Row
from llava_moe.data.turn_order import shuffle_turns
from llava_moe.errors import UserError

AUTO = "auto"


@dataclass(frozen=True)
class Source:
    """One source of records.

    Attributes:
        name: unique in a mixture.
        domain: what its losses and experts are counted under.
        path: a file, a folder of Parquet/JSON/JSONL files, a glob, an address (``hf://datasets/...``), or a folder
            that ``data prepare`` made. JSON may be compressed (``.jsonl.gz``).
        format: one of ``FORMATS``; ``auto`` tells prepared folders, ``llava``, ``records`` and ``messages`` apart.
        images: the folder that image paths start from; a prepared folder knows its own.
        folder: that of the file which names the source: image paths start from it where ``images`` is not given, and
            may lead out of it; None: they start from the folder of the command.
        value_range: low and high, which become black and white in images of more than 8 bits (see ``ImageReading``).
        split: read the records of this split, as their ``split`` column, their shard or their file's name says;
            None: those of ``train`` and those that say none; ``all``: every record. See ``readers/splits.py``.
        text: ``caption`` makes of each record one image and its ``caption`` column.
        shuffle_turns: put each record's questions in a random order that its texts decide (see ``turn_order.py``).
        recipe: the recipe that prepares ``path``, for what to do where it is not there.
        repeats: passes over the source in an epoch (fractions allowed); ``cap``: most records in an epoch;
            ``weight``: share of an epoch, where the mixture fixes the epoch's size (see ``Mixture``).
    """

    name: str
    domain: str
    path: str
    format: str = AUTO
    images: str | None = None
    value_range: tuple[float, float] | None = None
    split: str | None = None
    text: Literal["conversations", "caption"] = "conversations"
    shuffle_turns: bool = False
    recipe: str | None = None
    repeats: float = 1.0
    cap: int | None = None
    weight: float = 1.0
    folder: str | None = None

    def __post_init__(self) -> None:
        where = f"data source {self.name!r}"
        if self.format not in (AUTO, *FORMATS):
            raise UserError(f"{where}: unknown format {self.format!r}; use one of {', '.join((AUTO, *FORMATS))}")
        if self.text not in ("conversations", "caption"):
            raise UserError(f"{where}: text={self.text!r}; use conversations or caption")
        if self.value_range is not None and not is_value_range(self.value_range):
            raise UserError(f"{where}: value_range={self.value_range!r}: give two finite numbers, low below high")
        if self.repeats <= 0 or self.weight < 0 or (self.cap is not None and self.cap < 1):
            raise UserError(f"{where}: repeats and cap must be above 0 and weight at least 0")

    @property
    def reads(self) -> str:
        """What it makes of a record's text, for fingerprints."""
        return f"{self.text}:shuffled" if self.shuffle_turns else self.text


@dataclass(frozen=True)
class Entry:
    """One record as read: its number in the file, its id, and the conversation or what is wrong with it.

    ``turns`` and ``images`` are set for a bad record only: what it has of them, for people to look at.
    """

    number: int
    id: str
    content: Conversation | BadRecord
    turns: tuple[Turn, ...] = ()
    images: tuple[ImageRef, ...] = ()


class Records(Protocol):
    """The records of a source, read on demand."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the records may have changed."""

    @property
    def image_root(self) -> str | None:
        """The folder that image paths start from."""

    @property
    def num_in_files(self) -> int:
        """Records of all splits."""

    @property
    def splits(self) -> Mapping[str, int]:
        """How many records each split has, by its one name, those included that are not read."""

    @property
    def unread(self) -> str | None:
        """A line that names the splits that are not read for want of ``split=``; None where there is none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation:
        """Record ``index`` with its images' bytes read; raises ``BadRecord`` where it cannot be trained on."""

    def number(self, index: int) -> int:
        """The record's number in its file, from 0 (another than ``index`` where a split was chosen)."""

    def find(self, number: int) -> int | None:
        """The index of the record with this number in the file; None where there is none."""

    def read(self, start: int, stop: int) -> list[Entry]:
        """Records ``start`` to ``stop`` at once, the bad ones among them; stored images are not read."""


def entry_of(row: Row, images: tuple[ImageRef, ...], number: int, source: Source) -> Entry:
    """A row as a record of a source."""
    try:
        return Entry(number, row["id"], conversation_of(row, images, source))
    except BadRecord as fault:
        return Entry(number, row["id"], fault, turns_of(row, images, source), images)


def conversation_of(row: Row, images: tuple[ImageRef, ...], source: Source) -> Conversation:
    """The conversation of a row, its turns settled and its images counted.

    Raises:
        BadRecord: what is wrong with it.
    """
    if row["fault"] is not None:
        raise BadRecord(row["fault"], row["detail"])
    if not row["turns"] and row["caption"] is not None and source.text != "caption":
        raise BadRecord("no_turns", "a caption and no turns: give the source text: caption")
    turns = settle_turns(turns_of(row, images, source))
    if source.shuffle_turns and source.text != "caption":
        turns = shuffle_turns(row["id"], turns)
    # A caption stands for the whole conversation.
    system = None if source.text == "caption" else row["system"]
    conversation = Conversation(row["id"], images, turns, source.name, source.domain, row["task"], system)
    _refuse_tags(conversation)
    check_images(conversation)
    if not any(turn.is_supervised for turn in turns if turn.role == ASSISTANT):
        raise BadRecord("nothing_supervised", "each of its answers is marked as not to be trained on")
    return conversation


def _refuse_tags(conversation: Conversation) -> None:
    opening = () if conversation.system is None else (Turn(SYSTEM, conversation.system),)
    for turn in (*opening, *conversation.turns):
        tag = media_tag(turn.text, turn.role)
        if tag is not None:
            where = f"in a text of the {turn.role}"
            told = f"{' '.join(tag.split())[:80]} stands for media {where}; {IMAGE_PLACEHOLDER} alone is read"
            raise BadRecord(UNREAD_MEDIA, told)


def turns_of(row: Row, images: tuple[ImageRef, ...], source: Source) -> tuple[Turn, ...]:
    """The turns of a row as they stand, or those that a caption stands for."""
    if source.text == "caption":
        return (Turn(USER, "\n".join([IMAGE_PLACEHOLDER] * len(images))), Turn(ASSISTANT, row["caption"] or ""))
    return tuple(Turn(turn["role"], turn["text"], turn.get("is_supervised") is not False) for turn in row["turns"])
