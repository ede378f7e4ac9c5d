"""The row that every record is kept in, whatever format it came from, and what the formats share.

A row is a dict: ``id``, ``images`` (list of ``{"path", "bytes"}``, one of them set), ``turns`` (list of
``{"role", "text"}``), ``caption``, ``split``, ``task``, and ``fault`` with ``detail`` where it could not be read.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.data.conversation import ASSISTANT, USER, BadRecord
from llava_moe.data.readers.json_values import SpelledNumber, half_pair

Row = dict[str, Any]

_ROLES = {"human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")


def new_row(
    record: Mapping[str, Any], number: int, images: list[dict[str, Any]], turns: list[dict[str, str]], task: Any
) -> Row:
    """Put the parts of a record into a row; columns that the record lacks are None."""
    if isinstance(record.get("id"), bool | float | str):
        optional_text(record["id"])
    return {
        "id": record_id(record, number),
        "images": images,
        "turns": turns,
        "caption": optional_text(record.get("caption")),
        "split": optional_text(record.get("split")),
        "task": optional_text(task),
        "fault": None,
        "detail": None,
    }


def faulty_row(record: Any, number: int, fault: BadRecord) -> Row:
    """The row of a record that could not be read: kept, so that it is counted and named."""
    known = record if isinstance(record, Mapping) else {}
    split = known.get("split")
    return {
        "id": record_id(known, number),
        "images": [],
        "turns": [],
        "caption": None,
        "split": split if isinstance(split, str) and half_pair(split) is None else None,
        "task": None,
        "fault": fault.reason,
        "detail": fault.detail,
    }


def record_id(record: Mapping[str, Any], number: int) -> str:
    """The record's id as text that UTF-8 can hold; its number where it has none."""
    value = record.get("id")
    return str(number) if value is None else str(value).encode("utf-8", "replace").decode()


def optional_text(value: Any) -> str | None:
    """Text as UTF-8 can hold it; numbers are written out as their file spells them.

    Raises:
        BadRecord: a boolean, ``NaN``, an infinity, anything else that is neither text nor number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRecord("not_a_conversation", f"text expected, got {type(value).__name__}")
    if isinstance(value, float) and not isinstance(value, SpelledNumber) and not math.isfinite(value):
        raise BadRecord("not_a_conversation", f"text expected, got {value}, which is no number either")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord("unreadable_text", f"half a surrogate pair at character {error.start}") from error
    return text


def read_turns(messages: Any, role_key: str, text_key: str) -> list[dict[str, str]]:
    """Turns with our role names; unknown roles stay, and are refused when the turns are settled."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise BadRecord("not_a_conversation", "the conversation is no list of turns")
    turns = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or role_key not in message or text_key not in message:
            raise BadRecord("not_a_conversation", f"turn {number} lacks {role_key!r} or {text_key!r}")
        role = optional_text(message[role_key]) or ""
        role, text = _ROLES.get(role.lower(), role), optional_text(message[text_key])
        if text is None and role != ASSISTANT:  # an answer that is null is an empty answer
            raise BadRecord("not_a_conversation", f"the text of turn {number} is null")
        turns.append({"role": role, "text": text or ""})
    return turns


def read_images(value: Any) -> list[dict[str, Any]]:
    """Image references from one or a list of: path, base64 text, data URI, bytes, ``{"bytes", "path"}``."""
    if value is None or value == "" or value == b"":
        return []
    items = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return [_read_image(item) for item in items]


def _read_image(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        if item.get("bytes") is not None:
            return {"path": None, "bytes": _embedded(item["bytes"])}
        item = item.get("path")
    if isinstance(item, bytes | bytearray):
        return {"path": None, "bytes": bytes(item)}
    if not isinstance(item, str) or not item:
        raise BadRecord("not_a_conversation", f"an image is a path, bytes or base64 text, got {type(item).__name__}")
    encoded = _from_base64(item)
    return {"path": None, "bytes": encoded} if encoded is not None else {"path": optional_text(item), "bytes": None}


def _embedded(content: Any) -> bytes:
    """What stands under ``bytes``: bytes as Parquet has them, or in JSON base64 text or a list of numbers."""
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    try:
        encoded = _from_base64(content) if isinstance(content, str) else bytes(list(content))
    except (TypeError, ValueError):
        encoded = None
    if encoded is None:
        raise BadRecord("image_unreadable", f"what stands under bytes is no image, but {type(content).__name__}")
    return encoded


def _from_base64(text: str) -> bytes | None:
    """The bytes of base64 text (also URL-safe, wrapped, or as a data URI); None for a path.

    What decides is whether the text decodes to the first bytes of an image file: no path does.
    """
    is_uri = text.startswith("data:")
    if is_uri:
        text = text.partition(",")[2]
    elif len(text) < 64:
        return None
    try:
        if not is_uri and not _decode(text[:16]).startswith(_MAGIC):
            return None
        return _decode("".join(text.split()))
    except (binascii.Error, ValueError) as error:
        if is_uri:
            raise BadRecord("image_unreadable", f"the data URI is no base64 ({error})") from error
        return None


def _decode(text: str) -> bytes:
    standard = text.translate(str.maketrans("-_", "+/")).rstrip("=")
    return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
