"""The row that every record is kept in, whatever format it came from, and what the formats share.

A row is a dict: ``id``, ``images`` (list of ``{"path", "bytes"}``, one of them set), ``turns`` (list of
``{"role", "text", "is_supervised"}``; the last is False where an answer is not supervised, else absent or None),
``system``, ``caption``, ``split``, ``task``, and ``fault`` with ``detail`` where it could not be read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.image_refs import IMAGE_KEYS, find_images, is_empty, items_of
from llava_moe.data.readers.json_values import SpelledNumber
from llava_moe.data.readers.media_keys import refuse_unread
from llava_moe.text.structured_text import half_pair

Row = dict[str, Any]

_OWN = ("id", "caption", "split", "task")


def new_row(
    record: Mapping[str, Any],
    number: int,
    images: list[dict[str, Any]],
    turns: list[dict[str, Any]],
    task: Any,
    image_keys: Sequence[str] = IMAGE_KEYS,
    other_keys: Collection[str] = (),
    system: str | None = None,
) -> Row:
    """Put the parts of a record into a row; columns that the record lacks are None.

    Args:
        image_keys: the record's keys that images were read from.
        other_keys: what else its format reads.

    Raises:
        BadRecord: ``unread_media``, another key carries media; ``not_a_conversation``, ``unreadable_text``.
    """
    if not record.keys() <= (read := {*image_keys, *other_keys, *_OWN}):
        shown = items_of(find_images(record, image_keys)) if images else []
        refuse_unread(record, read, [item for item in shown if not is_empty(item)] or images)
    if isinstance(record.get("id"), bool | float | str):
        optional_text(record["id"], "id")
    return {
        "id": record_id(record, number),
        "images": images,
        "turns": turns,
        "system": system,
        "caption": optional_text(record.get("caption"), "caption"),
        "split": optional_text(record.get("split"), "split"),
        "task": optional_text(task, "task"),
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
        "system": None,
        "caption": None,
        "split": split if isinstance(split, str) and half_pair(split) is None else None,
        "task": None,
        "fault": fault.reason,
        # Names of keys are the file's own.
        "detail": " ".join(fault.detail.encode("utf-8", "replace").decode().split()),
    }


def record_id(record: Mapping[str, Any], number: int) -> str:
    """The record's id as text that UTF-8 can hold; its number where it has none."""
    value = record.get("id")
    return str(number) if value is None else str(value).encode("utf-8", "replace").decode()


def optional_text(value: Any, place: str = "") -> str | None:
    """Text as UTF-8 can hold it; numbers are written out as their file spells them.

    Args:
        place: where it stands in the record, for the message; "" where the caller says it.

    Raises:
        BadRecord: a boolean, ``NaN``, an infinity, anything else that is neither text nor number.
    """
    if value is None:
        return None
    at = f"{place}: " if place else ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRecord("not_a_conversation", f"{at}text expected, got {type(value).__name__}")
    if isinstance(value, float) and not isinstance(value, SpelledNumber) and not math.isfinite(value):
        raise BadRecord("not_a_conversation", f"{at}text expected, got {value}, which is no number either")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord("unreadable_text", f"{at}half a surrogate pair at character {error.start}") from error
    return text
