"""LLaVA's records: ``{"id", "image", "conversations": [{"from", "value"}]}``, with what the wild does to them.

So are ShareGPT4V, Vision-Flan and LLaVA-Med (which spells the key ``conversatons``). ``image`` is missing or None in
text-only records, a path, a list of paths, or base64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.data.readers.row import Row, new_row, read_images, read_turns


def llava_row(record: Mapping[str, Any], number: int) -> Row:
    """The row of one LLaVA record.

    Raises:
        BadRecord: ``not_a_conversation``, ``unreadable_text``, ``image_unreadable``.
    """
    messages = record.get("conversations", record.get("conversatons"))
    by_role = isinstance(messages, list) and bool(messages) and isinstance(messages[0], dict) and "role" in messages[0]
    turns = read_turns(messages, *(("role", "text") if by_role else ("from", "value")))
    images = read_images(record.get("image", record.get("images")))
    return new_row(record, number, images, turns, record.get("task_name", record.get("task", _flags(record))))


def _flags(record: Mapping[str, Any]) -> str | None:
    """LLaVA-Med's ``domain``, ``{"chest_xray": false, "mri": true}``, as a task: the flags that are set."""
    flags = record.get("domain")
    names = [str(name) for name, is_set in flags.items() if is_set] if isinstance(flags, Mapping) else []
    return "+".join(names) or None
