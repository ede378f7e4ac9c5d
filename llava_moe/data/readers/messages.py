"""Messages as chat formats write them: ``{"messages": [{"role", "content"}], "images": [...]}``.

So write OpenAI (content lists with ``image_url``), LLaMA-Factory and ms-swift (``<image>`` in the text, the images in
``images``), TRL (content lists with ``{"type": "image"}``, in Parquet too), and those who put ``role`` and ``content``
under ``conversations``. TRL's ``prompt`` and ``completion``, both lists of messages, are one conversation of which the
completion alone is supervised, as ``completion_only_loss`` has it. What a turn may be stands in ``turns.py``.

Where the record has images and no placeholder stands anywhere, they open the first user turn, as in TRL and ms-swift.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.data.conversation import ASSISTANT
from llava_moe.data.readers.image_refs import find_images, is_empty
from llava_moe.data.readers.row import Row, new_row
from llava_moe.data.readers.shapes import CONVERSATION_KEYS, find_turns, is_dialog
from llava_moe.data.readers.turns import SYSTEM_KEYS, read_spoken

_PAIR = ("prompt", "completion")
_READ = (*CONVERSATION_KEYS, *SYSTEM_KEYS, "tools", "functions")


def messages_row(record: Mapping[str, Any], number: int) -> Row:
    """The row of one record.

    Raises:
        BadRecord: as ``read_spoken``.
    """
    has_turns = any(not is_empty(record.get(key)) for key in CONVERSATION_KEYS)
    is_pair = not has_turns and all(is_dialog(record.get(key)) for key in _PAIR)
    turns = [*record["prompt"], *record["completion"]] if is_pair else find_turns(record)
    spoken = read_spoken(record, turns, find_images(record), opens=True)
    if is_pair:
        num_asked = len(spoken.turns) - len(record["completion"])
        for turn in spoken.turns[:num_asked]:
            if turn["role"] == ASSISTANT:
                turn["is_supervised"] = False
    read = (*_READ, *_PAIR) if is_pair else _READ
    return new_row(
        record, number, spoken.images, spoken.turns, record.get("task"), other_keys=read, system=spoken.system
    )
