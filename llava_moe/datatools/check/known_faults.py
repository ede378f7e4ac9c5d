"""Known faults of published sets: what the check needs of them, whoever wrote them down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


class Repair(Protocol):
    """A known fault with what to do about it."""

    @property
    def name(self) -> str: ...

    @property
    def fault(self) -> str:
        """What is wrong, a line."""

    @property
    def remedy(self) -> str:
        """What to do, a line."""

    @property
    def expected(self) -> int | None:
        """How many images it concerns as far as is known."""


Known = Mapping[str, Callable[[str, str], Repair | None]]
"""By a view's label: (image path, kind) to the known fault that explains it, if one does."""


@dataclass
class KnownFault:
    """A known fault that was met: how many images it explains, and the first."""

    repair: Repair
    example: str
    count: int = 0
