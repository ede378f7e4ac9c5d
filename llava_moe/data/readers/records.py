"""Our own records: ``{"id", "images", "conversations": [{"role", "text"}], "source", "domain", "task"}``.

Optional columns: ``caption``, ``split``, ``system``, ``is_supervised`` of a turn. What a turn may be stands in
``turns.py``. Other columns are passed over, unless they carry media.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.data.readers.image_refs import find_images, is_empty, read_images
from llava_moe.data.readers.row import Row, new_row
from llava_moe.data.readers.shapes import CONVERSATION_KEYS, find_turns
from llava_moe.data.readers.turns import SYSTEM_KEYS, Spoken, read_spoken

_READ = (*CONVERSATION_KEYS, *SYSTEM_KEYS, "tools", "functions", "source", "domain")


def records_row(record: Mapping[str, Any], number: int) -> Row:
    """The row of one record. Where images are given and no placeholder stands anywhere, they open the first user turn.

    Raises:
        BadRecord: as ``read_spoken``.
    """
    images = find_images(record, ("images", "image"))
    has_turns = any(not is_empty(record.get(key)) for key in CONVERSATION_KEYS)
    if not has_turns and record.get("caption") is not None:
        spoken = Spoken([], read_images(images), None)
    else:
        spoken = read_spoken(record, find_turns(record), images, opens=True)
    return new_row(
        record, number, spoken.images, spoken.turns, record.get("task"), other_keys=_READ, system=spoken.system
    )
