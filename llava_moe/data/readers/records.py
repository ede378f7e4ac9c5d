"""Our own records: ``{"id", "images", "conversations": [{"role", "text"}], "source", "domain", "task"}``.

Optional columns: ``caption``, ``split``. Others are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.data.conversation import IMAGE_PLACEHOLDER, USER
from llava_moe.data.readers.row import Row, new_row, read_images, read_turns


def records_row(record: Mapping[str, Any], number: int) -> Row:
    """The row of one record. Where images are given and no placeholder stands anywhere, they open the first user turn.

    Raises:
        BadRecord: ``not_a_conversation``, ``unreadable_text``, ``image_unreadable``.
    """
    images = read_images(record.get("images", record.get("image")))
    messages = record.get("conversations")
    captioned = messages is None and record.get("caption") is not None
    turns = [] if captioned else read_turns(messages, "role", "text")
    if images and not any(IMAGE_PLACEHOLDER in turn["text"] for turn in turns):
        first = next((turn for turn in turns if turn["role"] == USER), None)
        if first is not None:
            first["text"] = f"{IMAGE_PLACEHOLDER}\n" * len(images) + first["text"]
    return new_row(record, number, images, turns, record.get("task"))
