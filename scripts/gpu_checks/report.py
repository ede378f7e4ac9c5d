"""What was found: checks with their bounds, figures, and what was left out; told as it comes, and written for a GPU."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_moe.files.atomic_write import write_atomically

NOT_ON_A_GPU = "not run on a GPU"


@dataclass(frozen=True)
class Check:
    """A value that may be at most its bound; one that is not a number is above every bound."""

    part: str
    name: str
    value: float
    bound: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        return math.isfinite(self.value) and self.value <= self.bound

    def told(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return f"{self.value:.3g}, at most {self.bound:.3g}: {verdict}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Figure:
    """What was measured, and beside it what was foretold; ``value`` is None where no GPU was there to be measured."""

    part: str
    name: str
    value: float | None
    unit: str
    foretold: float | None = None

    def told(self) -> str:
        measured = NOT_ON_A_GPU if self.value is None else f"{self.value:,.4g} {self.unit}"
        return measured if self.foretold is None else f"{measured}; plan foretells {self.foretold:,.4g} {self.unit}"


@dataclass(frozen=True)
class Skipped:
    """What did not run: it is neither passed nor failed."""

    part: str
    name: str
    reason: str

    def told(self) -> str:
        return f"skipped: {self.reason}"


@dataclass(frozen=True)
class Broken:
    """What ended with an error before it came to a value."""

    part: str
    name: str
    error: str

    def told(self) -> str:
        return f"FAILED: {self.error}"


Finding = Check | Figure | Skipped | Broken


@dataclass
class Report:
    """Findings in the order in which they came.

    Attributes:
        on_gpu: whether figures are measured: those of a CPU are not told.
        told: called with each line; the line is out before the next finding is sought.
        kept: called behind each finding.
    """

    on_gpu: bool
    told: Callable[[str], object] = lambda line: sys.stdout.write(line + "\n") and sys.stdout.flush()
    kept: Callable[[Report], object] = lambda _: None
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Keep a finding, and tell it."""
        self.findings.append(finding)
        self.told(f"{finding.part:<10} {finding.name:<58} {finding.told()}")
        self.kept(self)

    def check(self, part: str, name: str, value: float, bound: float, detail: str = "") -> None:
        self.add(Check(part, name, value, bound, detail))

    def figure(self, part: str, name: str, value: float | None, unit: str, foretold: float | None = None) -> None:
        """Keep what was measured; on a CPU, that it was not."""
        self.add(Figure(part, name, value if self.on_gpu else None, unit, foretold))

    def skip(self, part: str, name: str, reason: str) -> None:
        self.add(Skipped(part, name, reason))

    @property
    def failed(self) -> list[Check | Broken]:
        return [one for one in self.findings if isinstance(one, Broken) or (isinstance(one, Check) and not one.passed)]

    def close(self) -> int:
        """Tell what it came to; the exit status: 0 where something was checked and all of that passed."""
        passed = sum(isinstance(one, Check) and one.passed for one in self.findings)
        skipped = sum(isinstance(one, Skipped) for one in self.findings)
        self.told(f"\n{passed} checks passed, {len(self.failed)} failed, {skipped} skipped")
        for one in self.failed:
            self.told(f"FAILED {one.part}: {one.name}: {one.told()}")
        return 0 if passed and not self.failed else 1

    def as_dict(self) -> dict[str, Any]:
        """Findings as numbers and text."""
        return {"findings": [_as_dict(one) for one in self.findings]}


def _as_dict(finding: Finding) -> dict[str, Any]:
    verdict = {"passed": finding.passed} if isinstance(finding, Check) else {}
    return {"kind": type(finding).__name__.lower()} | asdict(finding) | verdict


@dataclass
class Budget:
    """Seconds that are left, by its own clock: nothing begins that does not fit."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def left(self) -> float:
        return self.seconds - (self.clock() - self.started)

    def allows(self, needed: float) -> str | None:
        """None where so many seconds are left, else why what needs them is skipped."""
        return None if self.left >= needed else f"{max(0.0, self.left):.0f} s are left, it needs {needed:.0f}"


def write_evidence(path: Path, machine: Mapping[str, Any], report: Report, is_complete: bool) -> None:
    """Write what was found on a GPU.

    Raises:
        ValueError: no GPU was measured: such figures are no evidence.
    """
    if not report.on_gpu:
        raise ValueError(f"{path} is for what ran on a GPU, and this did not")
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": dict(machine), "is_complete": is_complete, **report.as_dict()}
    write_atomically(path, json.dumps(told, indent=1) + "\n")
