"""What a mistyped path may have meant: the file or folder beside it whose name is nearest."""

from __future__ import annotations

import os
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

_MOST_ENTRIES = 10_000
_ALIKE = 0.8


def near_place(place: Path, *, only_folders: bool = False) -> Path | None:
    """The place of nearly the same name in the same folder; None where there is none, or no such folder.

    Args:
        only_folders: files are not meant.
    """
    try:
        with os.scandir(place.parent) as entries:
            there = sorted(entry.name for entry in islice(entries, _MOST_ENTRIES) if entry.is_dir() or not only_folders)
    except (OSError, ValueError):
        return None
    near = get_close_matches(place.name, there, n=1, cutoff=_ALIKE)
    return place.with_name(near[0]) if near else None


def path_meant(place: Path, *, only_folders: bool = False) -> str:
    """``" (did you mean X?)"`` with that place, or nothing."""
    near = near_place(place, only_folders=only_folders)
    return "" if near is None else f" (did you mean {near}?)"
