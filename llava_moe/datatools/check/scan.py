"""Reading a stretch of a view's records: their words judged as training judges them, everything else hashed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np

from llava_moe.data.conversation import SYSTEM, BadRecord, Conversation, ImageRef, StoredImage, Turn
from llava_moe.data.encode import IGNORED, EncodedText, Encoder
from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.quarantine import TOO_LONG
from llava_moe.data.records import Entry, Records
from llava_moe.data.template import Rendered
from llava_moe.datatools.check.fault_kinds import is_listed
from llava_moe.datatools.check.pictures import Picture, image_key, look_at
from llava_moe.datatools.check.stage_view import View
from llava_moe.datatools.check.text import asked_questions, read_turns, refine, special_tokens, text_kinds
from llava_moe.errors import UserError

CHUNK = 256
PICTURES = 32
NUM_SHOWN = 20
"""Notes of a kind that are kept with their place; all are counted."""


@dataclass(frozen=True)
class Found:
    """One record with a kind.

    Attributes:
        row: in its view; ``number``: in its file.
        reason: what training would say of it; the kind itself where training would say nothing.
        image: the path of the image that it is about, if it is.
    """

    row: int
    number: int
    id: str
    kind: str
    reason: str
    detail: str
    image: str = ""


@dataclass(frozen=True)
class AskedPicture:
    """An image of an evaluation set: given itself, or to be read as image ``place`` of a record."""

    ref: ImageRef | None
    root: str | None = None
    records: Records | None = None
    row: int = 0
    place: int = 0

    def read(self) -> tuple[str | bytes, str | None]:
        """The image with its bytes read, and the folder that its path starts from."""
        ref = self.ref
        if self.records is not None:
            entry = self.records.read(self.row, self.row + 1)[0]
            images = entry.images if isinstance(entry.content, BadRecord) else entry.content.images
            ref = read_ref(self.records, self.row, self.place, images[self.place])
        assert isinstance(ref, str | bytes)
        return ref, self.root


@dataclass(frozen=True)
class CheckJob:
    """What all tasks share.

    Attributes:
        questions: hashes of the evaluation sets' questions.
        pictures: the evaluation sets' images.
    """

    views: tuple[View, ...]
    questions: frozenset[int] = frozenset()
    pictures: tuple[AskedPicture, ...] = ()

    @property
    def readers(self) -> tuple[Encoder, ...]:
        """One encoder for each way of reading images that the views have."""
        return tuple({(one.encoder.transform, one.encoder.max_pixels): one.encoder for one in self.views}.values())

    def reader_of(self, view: int) -> int:
        """The place of a view's way of reading images among ``readers``."""
        own = self.views[view].encoder
        alike = [(one.transform, one.max_pixels) == (own.transform, own.max_pixels) for one in self.readers]
        return alike.index(True)


@dataclass(frozen=True)
class Stretch:
    """Records ``start`` to ``stop`` of a view."""

    view: int
    start: int
    stop: int


@dataclass
class Scanned:
    """What a stretch of n records held, of m images.

    Attributes:
        faults: one for each record that training refuses.
        own_faults: of records that training would take; what it refuses of their images goes before them.
        notes: how many records of each kind; ``shown`` are the first of each.
        dropped: rows that training leaves out by its own policy for length.
        texts: uint64 [n], hash of the text as trained on; 0 for a record that is left out.
        ids: uint64 [n].
        image_rows, image_keys: int64 [m] and uint64 [m]: the images that training would open.
        image_places: int16 [m], which of the record's images.
        asked_rows, asked: int64 and uint64: questions that stand in an evaluation set too.
    """

    texts: np.ndarray
    ids: np.ndarray
    faults: list[Found] = field(default_factory=list)
    own_faults: list[Found] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    shown: list[Found] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    image_rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    image_keys: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    image_places: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int16))
    asked_rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    asked: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    def note(self, found: Found) -> None:
        """Count a note, and keep it while there are few of its kind."""
        self.notes[found.kind] += 1
        if self.notes[found.kind] <= NUM_SHOWN:
            self.shown.append(found)


def hash_text(text: str) -> int:
    """64 bits of SHA-256, never 0."""
    return int.from_bytes(sha256(text.encode("utf-8", "replace")).digest()[:8], "big") or 1


def scan(job: CheckJob, stretch: Stretch) -> Scanned:
    """Judge a stretch of records by the functions that training judges them by.

    No image is opened, but where the tokens of images depend on their sizes.
    """
    view = job.views[stretch.view]
    entries = view.records.read(stretch.start, stretch.stop)
    ids = np.asarray([hash_text(entry.id) for entry in entries], dtype=np.uint64)
    scanned = Scanned(np.zeros(len(entries), dtype=np.uint64), ids)
    ready: list[tuple[int, Entry, Conversation, Rendered]] = []
    for row, entry in enumerate(entries, stretch.start):
        try:
            if isinstance(entry.content, BadRecord):
                raise entry.content
            ready.append((row, entry, entry.content, view.encoder.template.render(entry.content)))
        except BadRecord as fault:
            scanned.faults.append(_found(row, entry, refine(fault, entry.turns), fault.reason, fault.detail))
    specials = special_tokens(view.encoder)
    images: list[tuple[int, int, int]] = []
    asked: list[tuple[int, int]] = []
    encodings = view.encoder.encode_texts([rendered for *_, rendered in ready]) if ready else []
    for (row, entry, conversation, rendered), encoding in zip(ready, encodings, strict=True):
        try:
            text = view.encoder.finish(rendered, encoding, _image_sizes(view, row))
        except BadRecord as fault:
            if fault.reason != TOO_LONG:
                scanned.faults.append(_found(row, entry, fault.reason, fault.reason, fault.detail))
                continue
            scanned.dropped.append(row)
            scanned.note(_found(row, entry, TOO_LONG, TOO_LONG, fault.detail))
            continue
        scanned.texts[row - stretch.start] = hash_text(rendered.text + _apart(conversation))
        _note_text(view, row, entry, conversation, text, specials, scanned)
        # Images behind a cut are never opened by training either.
        for place, ref in enumerate(conversation.images[: text.num_images]):
            images.append((row, image_key(ref, view.records.image_root), place))
        if job.questions:
            said = {hash_text(question) for question in asked_questions(conversation.turns)}
            asked += [(row, question) for question in sorted(said & job.questions)]
    if images:
        rows, keys, places = zip(*images, strict=True)
        scanned.image_rows = np.asarray(rows, dtype=np.int64)
        scanned.image_keys = np.asarray(keys, dtype=np.uint64)
        scanned.image_places = np.asarray(places, dtype=np.int16)
    if asked:
        scanned.asked_rows = np.asarray([row for row, _ in asked], dtype=np.int64)
        scanned.asked = np.asarray([question for _, question in asked], dtype=np.uint64)
    return scanned


def _apart(conversation: Conversation) -> str:
    """What tells records of the same rendered text apart: another system text, other answers that are trained on."""
    skipped = [number for number, turn in enumerate(conversation.turns) if not turn.is_supervised]
    return "" if conversation.system is None and not skipped else repr((conversation.system, skipped))


def _image_sizes(view: View, row: int) -> tuple[ImageSize, ...]:
    if view.encoder.has_equal_images:
        return ()
    return view.encoder.image_sizes(view.records[row], view.records.image_root, view.source.value_range)


def _found(row: int, entry: Entry, kind: str, reason: str, detail: str) -> Found:
    return Found(row, entry.number, entry.id, kind, reason, detail)


def _note_text(
    view: View,
    row: int,
    entry: Entry,
    conversation: Conversation,
    text: EncodedText,
    specials: Sequence[str],
    scanned: Scanned,
) -> None:
    turns = read_turns(conversation.turns, view.encoder)
    if conversation.system is not None and view.encoder.template.kind != "plain":
        turns = [Turn(SYSTEM, conversation.system), *turns]
    told = text_kinds(turns, view.encoder.template.eos, specials)
    if text.was_cut:
        told.append(("cut", f"{len(text.input_ids)} tokens are kept, at most {view.encoder.max_length}"))
    if not (text.labels != IGNORED).any():
        told.append(("nothing_supervised", f"none of {len(text.labels)} tokens"))
    for kind, detail in told:
        found = _found(row, entry, kind, kind, detail)
        if is_listed(kind):
            scanned.own_faults.append(found)
        else:
            scanned.note(found)


@dataclass(frozen=True)
class Places:
    """Images to open: of a view, by ascending row and the place among the row's images."""

    view: int
    rows: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """An image that was opened, and the record that it was opened for."""

    picture: Picture
    row: int
    number: int
    id: str
    path: str

    def found(self, kind: str, reason: str, detail: str) -> Found:
        """The record with a kind of this image."""
        return Found(self.row, self.number, self.id, kind, reason, detail, self.path)


def look(job: CheckJob, wanted: Places) -> list[Seen]:
    """Open images of a view, one after the other."""
    view = job.views[wanted.view]
    reading = replace(view.encoder.reading, value_range=view.source.value_range)
    first, last = wanted.rows[0], wanted.rows[-1]
    # Neighbours are read together; what lies far apart, alone.
    together = view.records.read(first, last + 1) if last - first < 4 * len(wanted.rows) else None
    seen = []
    for row, place in zip(wanted.rows, wanted.places, strict=True):
        entry = together[row - first] if together is not None else view.records.read(row, row + 1)[0]
        if isinstance(entry.content, BadRecord):
            raise UserError(f"record {entry.number} of {view.source.name} changed while it was read: check it again")
        ref = entry.content.images[place]
        picture = look_at(read_ref(view.records, row, place, ref), view.records.image_root, job.readers, reading)
        seen.append(Seen(picture, row, entry.number, entry.id, ref if isinstance(ref, str) else ""))
    return seen


def look_asked(job: CheckJob, places: tuple[int, ...]) -> list[Picture]:
    """Open images of the evaluation sets."""
    reading = replace(job.readers[0].reading, value_range=None)
    return [look_at(*job.pictures[place].read(), job.readers, reading) for place in places]


def read_ref(records: Records, row: int, place: int, ref: ImageRef) -> str | bytes:
    """An image reference with a stored image's bytes read."""
    if isinstance(ref, StoredImage):
        ref = records[row].images[place]
    assert isinstance(ref, str | bytes)
    return ref
