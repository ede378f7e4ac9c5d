"""A value as it is written on the command line."""

from __future__ import annotations

from typing import Any

LONGEST_SHOWN = 400


def as_word(value: Any) -> str:
    """A value as it is written on the command line, cut where it is longer than anyone reads."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:80]}...{text[-20:]}"
