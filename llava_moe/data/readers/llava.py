"""LLaVA's records: ``{"id", "image", "conversations": [{"from", "value"}]}``, with what the wild does to them.

So are ShareGPT4V, Vision-Flan and LLaVA-Med (which spells the key ``conversatons``). ``image`` is missing or None in
text-only records, a path, a list of paths, or base64; ``images`` is read as well. What a turn may be, system texts and
marks of what is supervised among it, stands in ``turns.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.data.readers.image_refs import find_images
from llava_moe.data.readers.row import Row, new_row
from llava_moe.data.readers.shapes import CONVERSATION_KEYS, find_turns
from llava_moe.data.readers.turns import SYSTEM_KEYS, read_spoken

_READ = (*CONVERSATION_KEYS, *SYSTEM_KEYS, "tools", "functions", "task_name")


def llava_row(record: Mapping[str, Any], number: int) -> Row:
    """The row of one LLaVA record.

    Raises:
        BadRecord: as ``read_spoken``.
    """
    spoken = read_spoken(record, find_turns(record), find_images(record), opens=False)
    tasks = (record.get("task_name"), record.get("task"), _flags(record))
    task = next((task for task in tasks if task is not None), None)
    return new_row(record, number, spoken.images, spoken.turns, task, other_keys=_READ, system=spoken.system)


def _flags(record: Mapping[str, Any]) -> str | None:
    """LLaVA-Med's ``domain``, ``{"chest_xray": false, "mri": true}``, as a task: the flags that are set."""
    flags = record.get("domain")
    names = [str(name) for name, is_set in flags.items() if is_set] if isinstance(flags, Mapping) else []
    return "+".join(names) or None
