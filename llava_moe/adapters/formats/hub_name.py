"""A base's name as a file may carry it to other machines: a hub id, never a place on the machine that wrote it."""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_IN_HUB_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]")


def hub_id(reference: str | None) -> str | None:
    """The hub id that a model was named by; ``None`` where it was named by a folder.

    A folder of the hub's own cache has the id in its path. Whatever is there on disk is a folder, as it is to
    transformers.
    """
    if not reference:
        return None
    if cached := _IN_HUB_CACHE.search(reference):
        return f"{cached[1]}/{cached[2]}"
    is_folder = Path(reference).expanduser().exists()
    return reference if _HUB_ID.fullmatch(reference) and not is_folder else None
