"""One case: a mutated input in a folder of its own, and what is done with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

DEFAULT_SEED = 20261129


@dataclass(frozen=True)
class CaseName:
    """Which case: ``records:20261129:1234`` draws the same input wherever it is drawn."""

    family: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.family}:{self.seed}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> CaseName:
        family, seed, number = text.split(":")
        return cls(family, int(seed), int(number))

    def random(self) -> random.Random:
        """The numbers that the case is drawn by, and nothing else is."""
        return random.Random(str(self))


@dataclass(frozen=True)
class Attempt:
    """What a case does.

    Attributes:
        run: called in a process of its own, in the case's folder; returns an exit status. 0 and 2 are right.
        about: the command or call, for people.
        may_write: folders and files that it may write below, beside its cache and its temporary folder.
        may_not_read: folders and files that nobody gave it.
    """

    run: Callable[[], int]
    about: str
    may_write: tuple[Path, ...] = ()
    may_not_read: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt.

    Attributes:
        status: exit status, negative for a signal.
        cpu_seconds: of it and what it started.
        peak_bytes: resident memory over that of the process it was forked from.
        events: what it did that was watched for: ``kind`` and what.
    """

    status: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    timed_out: bool
    output: str
    errors: str
    events: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Finding:
    """A fault: its kind, one of ``judge.KINDS``, what happened, and the case that shows it."""

    kind: str
    told: str
    case: str = ""
    about: str = ""
    kept: str = field(default="", compare=False)


class Family(Protocol):
    """A kind of input. ``prepare`` makes what is mutated, once; ``draw`` writes a mutated copy below ``folder``."""

    name: str

    def prepare(self, folder: Path) -> None: ...

    def draw(self, random: random.Random, folder: Path) -> Attempt: ...
