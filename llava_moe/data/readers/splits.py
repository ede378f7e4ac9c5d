"""Which records of a source a run reads: the splits that records and file names say, and those that a user asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

TRAIN = "train"
EVERY = "all"
"""``split=all`` reads the records of all splits."""

WORDS = {TRAIN: TRAIN, "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Words for a split and what they mean."""


def settled(split: str | None) -> str:
    """A split by its one name: what says none is for training, ``validation``, ``valid`` and ``dev`` mean ``val``."""
    name = (split or "").strip()
    return WORDS.get(name.lower(), name) or TRAIN


def is_read(split: str | None, wanted: str | None, named: str | None = None) -> bool:
    """Whether records of a split are read.

    Args:
        split: what the record or its shard says; None where it says nothing.
        wanted: what the source asks for; None: ``train``.
        named: the split in the name of the one file that the user names himself, which then is read without ``split=``.
    """
    if wanted is not None and settled(wanted) == EVERY:
        return True
    told = settled(split)
    if wanted is None:
        return told in (TRAIN, named)
    return told == settled(wanted) or (not split and named is not None and named == settled(wanted))


def unread_line(name: str, wanted: str | None, others: Mapping[str, int]) -> str | None:
    """The line that names the splits that are not read for want of ``split=``; None where all are read."""
    if wanted is not None or not others:
        return None
    told = ", ".join(f"{split} ({count:,} records)" for split, count in sorted(others.items()))
    return f"{name}: train is read, not {told}: data.sources.{name}.split=NAME reads another, split={EVERY} all"


def no_such_split(wanted: str | None, path: object, there: Iterable[str]) -> str:
    """What to say where no record is of the split that is read."""
    told = json.dumps(sorted(set(there)))
    asked = f"split {wanted!r}" if wanted is not None else f"split {TRAIN!r}, which is read without split="
    return f"no record of {asked}; {path} has {told}: name one of them with split="
