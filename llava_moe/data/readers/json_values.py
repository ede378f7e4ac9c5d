"""JSON as it is written in the file: numbers keep their spelling, what a record must not hold is named.

Python's own reader changes numbers (``12.50`` to 12.5), takes the last of two keys for the first, and lets half a
surrogate pair through, which no UTF-8 can hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llava_moe.data.conversation import BadRecord
from llava_moe.text.structured_text import doubled_key, half_pair, is_too_deep

_MOST_DIGITS = 4300
"""Python reads longer integers in quadratic time and refuses them."""


class SpelledNumber(float):
    """A number that is written out as the file spells it."""

    spelling: str

    def __new__(cls, spelling: str) -> SpelledNumber:
        number = super().__new__(cls, spelling)
        number.spelling = spelling
        return number

    @classmethod
    def of(cls, value: float, spelling: str) -> SpelledNumber:
        """A number whose spelling another format decides."""
        number = super().__new__(cls, value)
        number.spelling = spelling
        return number

    def __str__(self) -> str:
        return self.spelling

    __repr__ = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        return SpelledNumber.of, (float(self), self.spelling)


@dataclass(frozen=True)
class FaultyRecord:
    """A raw record that is not to be read as one, and why; ``content`` is what can be shown of it."""

    content: Any
    fault: BadRecord


class JsonDecoder:
    """Reads one value at a time; :meth:`fault` judges the last one."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_float=SpelledNumber, parse_int=_integer)
        self.doubled: str | None = None

    def value(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at ``start``, and where it ends; raises as ``json.JSONDecoder.raw_decode``."""
        self.doubled = None
        return self._decoder.raw_decode(text, start)

    def whole(self, text: str) -> Any:
        """The one value that the text is; raises as ``json.loads``."""
        self.doubled = None
        return self._decoder.decode(text)

    def fault(self, value: Any, text: str, start: int, end: int) -> BadRecord | None:
        """What is wrong with the value that was read last from ``text[start:end]``; None where nothing is."""
        if self.doubled is not None:
            return BadRecord("doubled_key", f"the key {self.doubled!r} stands twice in one object")
        # An escape is the only way for half a pair into UTF-8 text.
        if text.find("\\ud", start, end) >= 0 or text.find("\\uD", start, end) >= 0:
            place = half_pair(value)
            if place is not None:
                return BadRecord("unreadable_text", f"half a surrogate pair in {place}")
        return None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs) and self.doubled is None:
            self.doubled = doubled_key(pairs)
        return made


def parse_spelled_json(text: str) -> Any:
    """One JSON value as a whole.

    Raises:
        ValueError: not valid JSON, nested too deep, a key twice in one object, or half a surrogate pair.
    """
    decoder = JsonDecoder()
    try:
        value = decoder.whole(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if is_too_deep(value):
        raise ValueError("nested too deep")
    fault = decoder.fault(value, text, 0, len(text))
    if fault is not None:
        raise ValueError(fault.detail)
    return value


def _integer(text: str) -> int | SpelledNumber:
    # Minus zero has no integer, and Python none of so many digits.
    return SpelledNumber(text) if text == "-0" or len(text) > _MOST_DIGITS else int(text)
