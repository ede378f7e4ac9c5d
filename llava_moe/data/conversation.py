"""The one record everything is read into: images, and turns of user and assistant."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from llava_moe.data.images.tiff_pages import split_page


@dataclass(frozen=True)
class StoredImage:
    """An encoded image that lies in prepared shards, known without being read.

    Attributes:
        sha256: of the encoded bytes, hex.
        width, height: pixels, from the image's header; 0 where no header could be read.
    """

    sha256: str
    width: int = 0
    height: int = 0


ImageRef = str | bytes | StoredImage
"""A path under the source's image root, an encoded image (JPEG, PNG, ...), or what is known of one not read yet."""

IMAGE_PLACEHOLDER = "<image>"
USER = "user"
ASSISTANT = "assistant"
SYSTEM = "system"
UNREAD_MEDIA = "unread_media"


@dataclass(frozen=True)
class Turn:
    """One message. ``role`` is ``"user"`` or ``"assistant"``; ``<image>`` in ``text`` marks the place of an image.

    ``is_supervised`` is False for an answer that is read like a question; a question is never supervised.
    """

    role: str
    text: str
    is_supervised: bool = True


@dataclass(frozen=True)
class Conversation:
    """One record: its images in the order of their placeholders, and its turns.

    ``id`` is for people: ids repeat in published data, so records are told apart by ``record_key``. ``system`` stands
    in place of the template's system prompt; None keeps the template's.
    """

    id: str
    images: tuple[ImageRef, ...]
    turns: tuple[Turn, ...]
    source: str
    domain: str
    task: str | None = None
    system: str | None = None


class BadRecord(ValueError):
    """A record that cannot be trained on.

    Attributes:
        reason: a short code: ``not_a_conversation``, ``unreadable_text``, ``unread_media``, ``tool_call``,
            ``system_text``, ``loss_flag``, ``nothing_supervised``, ``no_turns``, ``role_order``, ``image_count``,
            ``empty_question``, ``empty_answer``, ``not_plain``, ``too_long``, ``image_missing``, ``image_unreadable``,
            ``image_too_large``, ``image_outside``, ``image_address``,
            ``doubled_key``.
        detail: one line for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def merge_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Drop a leading assistant turn, then merge adjacent user turns with a newline.

    LLaVA drops a first turn that is not the user's (``preprocess_v1``); UReader writes ``<image>`` and the question as
    two user turns. Order is not judged here.
    """
    rest = turns[1:] if turns and turns[0].role == ASSISTANT else turns
    merged: list[Turn] = []
    for turn in rest:
        if merged and turn.role == USER and merged[-1].role == USER:
            merged[-1] = Turn(USER, f"{merged[-1].text}\n{turn.text}")
        else:
            merged.append(turn)
    return tuple(merged)


def settle_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Turns that alternate user, assistant, ..., and end with the assistant, each answer holding something.

    A leading assistant turn is dropped and adjacent user turns are merged before the order is judged. Settled turns
    come back equal.

    Raises:
        BadRecord: ``no_turns`` (no user turn is left), ``role_order`` (unknown role, two answers in a row, or a last
            question without an answer), ``empty_answer`` (an answer of blanks).
    """
    for number, turn in enumerate(turns):
        if turn.role == SYSTEM:
            raise BadRecord("role_order", "a later turn has the role system, which only the first turn may have")
        if turn.role not in (USER, ASSISTANT):
            raise BadRecord("role_order", f"turn {number} has the role {turn.role!r}, not user or assistant")
    merged = merge_turns(turns)
    if not any(turn.role == USER for turn in merged):
        raise BadRecord("no_turns", f"no user turn among {len(turns)}")
    for number, turn in enumerate(merged):
        expected = (USER, ASSISTANT)[number % 2]
        if turn.role != expected:
            raise BadRecord("role_order", f"turn {number} is by {turn.role}, expected {expected}")
        if turn.role == ASSISTANT and not turn.text.strip():
            raise BadRecord("empty_answer", f"the answer in turn {number} is blank")
    if merged[-1].role != ASSISTANT:
        raise BadRecord("role_order", "the last question has no answer")
    return merged


def count_placeholders(turns: Sequence[Turn]) -> int:
    """How many ``<image>`` stand in the turns."""
    return sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)


def check_images(conversation: Conversation) -> None:
    """Refuse a record whose placeholders and images differ in number, or whose answers hold a placeholder.

    Raises:
        BadRecord: ``image_count``.
    """
    places = count_placeholders(conversation.turns)
    if places != len(conversation.images):
        raise BadRecord("image_count", _told_of_images(places, len(conversation.images)))
    if any(turn.role == ASSISTANT and IMAGE_PLACEHOLDER in turn.text for turn in conversation.turns):
        raise BadRecord("image_count", f"{IMAGE_PLACEHOLDER} stands in an answer")


def _told_of_images(places: int, num_images: int) -> str:
    told = f"{places} {IMAGE_PLACEHOLDER} in the text, {num_images} images"
    if places > num_images:
        return f"{told}: name an image under image or images for each {IMAGE_PLACEHOLDER}, or take it out of the text"
    if places:
        return f"{told}: write one {IMAGE_PLACEHOLDER} for each image where it is asked about"
    return (
        f"{told}: write one {IMAGE_PLACEHOLDER} for each image at the start of the first user turn; "
        "data.sources.NAME.format=messages reads such a file as if they stood there"
    )


def record_key(conversation: Conversation) -> str:
    """SHA-256 (64 hex digits) over source, id, image references and texts; images that are no paths count by content.

    A system text and answers that are not supervised enter only where the record has them. Every field enters behind
    its kind and length, so no two different records write the same stream.
    """
    digest = hashlib.sha256()

    def field(kind: bytes, value: bytes) -> None:
        digest.update(kind + len(value).to_bytes(8, "little"))
        digest.update(value)

    field(b"s", conversation.source.encode())
    field(b"i", conversation.id.encode())
    for image in conversation.images:
        if isinstance(image, bytes):
            field(b"b", hashlib.sha256(image).digest())
        elif isinstance(image, StoredImage):
            field(b"b", bytes.fromhex(image.sha256))
        else:
            field(b"p", image.encode())
    if conversation.system is not None:
        field(b"y", conversation.system.encode())
    for turn in conversation.turns:
        field(b"t", turn.text.encode())
        if not turn.is_supervised:
            field(b"u", b"")
    return digest.hexdigest()


def image_identity(ref: ImageRef) -> int:
    """64 bits that are the same for the same image: the end of its path, or its encoded bytes.

    Of a path the last two parts count, without suffix: data sets write one file behind different folders
    (``00453/x.jpg`` in LLaVA-Pretrain, ``llava/llava_pretrain/images/00453/x.jpg`` in ShareGPT4V), and as .jpg what was
    downloaded as .gif. All pages of a document are one image. A renamed or re-encoded copy is another.
    """
    if isinstance(ref, StoredImage):
        return int(ref.sha256[:16], 16)
    if isinstance(ref, bytes):
        return int.from_bytes(hashlib.sha256(ref).digest()[:8], "big")
    parts = posixpath.normpath(split_page(ref)[0]).rsplit("/", 2)[-2:]
    name = "/".join([*parts[:-1], posixpath.splitext(parts[-1])[0]])
    return int.from_bytes(hashlib.sha256(b"path " + name.encode()).digest()[:8], "big")
