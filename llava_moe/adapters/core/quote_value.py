"""A value out of a file as it stands in a message: on one line, escaped, and never longer than a line."""

from __future__ import annotations

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlong = 40
_SHORT.maxlevel = 3


def quote_value(value: Any) -> str:
    """``repr(value)``, cut where it is long or deep."""
    return _SHORT.repr(value)
