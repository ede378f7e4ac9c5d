"""Kinds of limits: what a value may be, and how that is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llava_moe.data.images.reading import is_value_range

LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes, as on Linux."""


class Limit(Protocol):
    """One setting's domain."""

    def admits(self, value: Any) -> bool: ...
    def describe(self) -> str: ...


@dataclass(frozen=True)
class Whole:
    """A whole number from ``lowest`` to ``highest``; no count of ours is larger, and no seed."""

    lowest: int
    highest: int = 2**32 - 1

    def admits(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.lowest <= value <= self.highest

    def describe(self) -> str:
        return f"a whole number of at least {self.lowest} and at most {self.highest}"


@dataclass(frozen=True)
class Real:
    """A finite number from ``lowest`` to ``highest``, themselves left out if ``open_below`` and ``open_above``."""

    lowest: float
    highest: float = math.inf
    open_below: bool = False
    open_above: bool = False

    def admits(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # a whole number that no float holds
            return False
        is_above = self.lowest < value if self.open_below else self.lowest <= value
        return is_above and (value < self.highest if self.open_above else value <= self.highest)

    def describe(self) -> str:
        if self.lowest == -math.inf and math.isinf(self.highest):
            return "a finite number"
        above = f"{'above' if self.open_below else 'of at least'} {self.lowest:g}"
        below = f" and {'below' if self.open_above else 'at most'} {self.highest:g}"
        return f"a number {above}" + ("" if math.isinf(self.highest) else below)


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    options: tuple[Any, ...]

    def admits(self, value: Any) -> bool:
        return any(value is option or (value == option and isinstance(value, str)) for option in self.options)

    def describe(self) -> str:
        # YAML reads an unquoted off as false: it is one choice, named as it is typed.
        told = [option for option in self.options if not (option is False and "off" in self.options)]
        return " or ".join(str(option).lower() if isinstance(option, bool) else str(option) for option in told)


@dataclass(frozen=True)
class Text:
    """Text, which holds something unless it ``may_be_empty``."""

    may_be_empty: bool = False

    def admits(self, value: Any) -> bool:
        return isinstance(value, str) and (self.may_be_empty or bool(value.strip()))

    def describe(self) -> str:
        return "text" if self.may_be_empty else "text, such as a path or a name"


@dataclass(frozen=True)
class FilePath:
    """A path that a file can have, or an address."""

    def admits(self, value: Any) -> bool:
        # Quotes that the shell left inside quotes name nothing: out="''".
        if not isinstance(value, str) or not value.strip(" \t\n'\"") or "\0" in value:
            return False
        longest = max(len(part.encode()) for part in value.split("/"))
        return longest <= LONGEST_NAME and len(value.encode()) < LONGEST_PATH

    def describe(self) -> str:
        return f"text, such as a path; each name in it of at most {LONGEST_NAME} bytes"


@dataclass(frozen=True)
class PathOrMapping:
    """A path that a file can have, or what maps names to such paths."""

    def admits(self, value: Any) -> bool:
        return FilePath().admits(value) or (isinstance(value, str) and value.startswith("{"))

    def describe(self) -> str:
        return f"{FilePath().describe()}; or {{NAME: PATH, ...}}"


@dataclass(frozen=True)
class ListOf:
    """A list of values, of ``length`` if that is given, and of ``shortest`` at least."""

    item: Limit
    length: int | None = None
    shortest: int = 0

    def admits(self, value: Any) -> bool:
        if not isinstance(value, list) or self.length not in (None, len(value)) or len(value) < self.shortest:
            return False
        return all(self.item.admits(item) for item in value)

    def describe(self) -> str:
        how_many = f"{self.length} values, " if self.length is not None else "one or more, " if self.shortest else ""
        return f"a list [...] of {how_many}each {self.item.describe()}"


@dataclass(frozen=True)
class ValueRange:
    """Two finite numbers, the first below the second."""

    def admits(self, value: Any) -> bool:
        return is_value_range(value)

    def describe(self) -> str:
        return "two finite numbers [low, high], low below high, such as [0,4095]"


@dataclass(frozen=True)
class ByName:
    """A mapping whose every value is admitted."""

    item: Limit

    def admits(self, value: Any) -> bool:
        return isinstance(value, Mapping) and all(self.item.admits(item) for item in value.values())

    def describe(self) -> str:
        return f"a mapping {{name: value, ...}}, each value {self.item.describe()}"


@dataclass(frozen=True)
class OrNull:
    """Another limit, or null."""

    limit: Limit

    def admits(self, value: Any) -> bool:
        return value is None or self.limit.admits(value)

    def describe(self) -> str:
        return f"{self.limit.describe()}, or null"


@dataclass(frozen=True)
class Either:
    """What one of several limits admits."""

    limits: tuple[Limit, ...]

    def admits(self, value: Any) -> bool:
        return any(limit.admits(value) for limit in self.limits)

    def describe(self) -> str:
        return ", or ".join(limit.describe() for limit in self.limits)


@dataclass(frozen=True)
class Fields:
    """A mapping with fields of its own."""

    def admits(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def describe(self) -> str:
        return "a mapping {field: value, ...}"
