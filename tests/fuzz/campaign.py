"""Cases of a family one after the other, until the time is up; what was found is kept, counted and told."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz.case import Attempt, CaseName, Family, Finding
from tests.fuzz.child import SECONDS, run_attempt
from tests.fuzz.judge import KINDS, judge

PROGRESS_SECONDS = 30.0
MOST_KEPT = 200
# Seconds of the processor that tell a case that waits, and one that works, from one that a busy machine let wait.
STILL, BUSY = 1.0, 0.9 * SECONDS
PATIENCE = 6 * SECONDS


@dataclass
class Tally:
    """What a family's cases came to."""

    family: str
    seed: int
    num_cases: int = 0
    num_accepted: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0
    largest_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Findings by kind, those that were not met included."""
        met = Counter(finding.kind for finding in self.findings)
        return {kind: met[kind] for kind in KINDS}


class Campaign:
    """A family's cases by number, below one folder.

    Args:
        folder: good inputs go to ``good``, the case at hand to ``case``, the input of a case that found something to
            ``found/CASE``.
    """

    def __init__(self, family: Family, seed: int, folder: Path) -> None:
        self.family, self.seed, self.folder = family, seed, folder
        shutil.rmtree(folder / "good", ignore_errors=True)
        (folder / "good").mkdir(parents=True)
        family.prepare(folder / "good")

    def run(self, seconds: float, tell: Callable[[Tally], None], first: int = 0) -> Tally:
        """Cases from ``first`` on for so long; at least one."""
        tally, began = Tally(self.family.name, self.seed), time.monotonic()
        told = began
        while tally.num_cases == 0 or time.monotonic() - began < seconds:
            self.run_case(first + tally.num_cases, tally)
            tally.seconds = time.monotonic() - began
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                tell(tally)
        tell(tally)
        return tally

    def run_case(self, number: int, tally: Tally) -> None:
        """Draw, run and judge one case. What was late, but neither stood still nor was busy, gets another try."""
        name = CaseName(self.family.name, self.seed, number)
        for seconds in (SECONDS, PATIENCE):
            attempt = self._draw(name)
            outcome = run_attempt(attempt, self.folder / "case", seconds)
            if not outcome.timed_out or not STILL < outcome.cpu_seconds < BUSY:
                break
        tally.num_cases += 1
        tally.num_accepted += outcome.status == 0
        tally.longest_seconds = max(tally.longest_seconds, outcome.seconds)
        tally.largest_bytes = max(tally.largest_bytes, outcome.peak_bytes)
        found = judge(outcome, self._pages(attempt))
        if not found:
            return
        kept = self._keep(name, attempt, outcome.output + outcome.errors) if len(tally.findings) < MOST_KEPT else ""
        tally.findings += [Finding(one.kind, one.told, str(name), attempt.about, kept) for one in found]

    def _draw(self, name: CaseName) -> Attempt:
        case = self.folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        return self.family.draw(name.random(), case)

    def _pages(self, attempt: Attempt) -> list[Path]:
        case = self.folder / "case"
        names = (path for suffix in ("*.html", "*.svg") for path in case.rglob(suffix))
        return sorted(path for path in names if path.is_file() and not path.is_symlink())

    def _keep(self, name: CaseName, attempt: Attempt, said: str) -> str:
        # Moved, not copied: there may be pipes and devices in it.
        kept = self.folder / "found" / str(name).replace(":", "-")
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(exist_ok=True)
        (self.folder / "case").rename(kept)
        (kept / "ABOUT.txt").write_text(f"{attempt.about}\n\n{said}", encoding="utf-8", errors="replace")
        return str(kept)


def table(tallies: list[Tally]) -> str:
    """Counts by family and kind."""
    columns = ("family", "cases", "accepted", "seconds", "longest s", "peak MiB", *KINDS)
    rows = [
        (
            *(tally.family, tally.num_cases, tally.num_accepted, f"{tally.seconds:.0f}"),
            *(f"{tally.longest_seconds:.1f}", tally.largest_bytes >> 20, *tally.counts().values()),
        )
        for tally in tallies
    ]
    cells = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def write_tally(tally: Tally, folder: Path) -> None:
    """Write a family's numbers beside those of the others, and the table of all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{tally.family}.json").write_text(json.dumps(asdict(tally), indent=1))
    tallies = [read_tally(path) for path in sorted(folder.glob("*.json"))]
    lines = [table(tallies), ""]
    lines += [told for one in tallies for told in tell_findings(one)]
    # Two families may end together: each writes the whole.
    new = folder / f"table.{os.getpid()}"
    new.write_text("\n".join(lines) + "\n")
    new.replace(folder / "table.txt")


def read_tally(path: Path) -> Tally:
    """What :func:`write_tally` wrote."""
    fields = json.loads(path.read_text())
    return Tally(**fields | {"findings": [Finding(**finding) for finding in fields["findings"]]})


def tell_findings(tally: Tally) -> list[str]:
    """A line a finding: the first case of each, and how many more there are like it."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in tally.findings:
        place = finding.told.rpartition(" (")[2] if finding.told.endswith(")") else finding.told[:40]
        alike.setdefault((finding.kind, place), []).append(finding)
    return [
        f"{found[0].kind}: {found[0].told} [{len(found)} cases]\n"
        f"    FUZZ_CASE={found[0].case} pytest tests/fuzz    {found[0].about}\n    input: {found[0].kept}"
        for found in alike.values()
    ]
