"""What of an outcome is a fault."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

from tests.fuzz.case import Finding, Outcome
from tests.fuzz.child import GIBIBYTE, MEMORY, SECONDS

KINDS = (
    *("traceback", "crash", "hang", "memory", "outside write", "outside read", "program", "socket"),
    *("escape", "wordy", "page"),
)
MARK = "fuzzmark"
"""A word that hostile texts hold: code that runs in a page with it came from outside."""
# A failed allocation, told by Python, NumPy, torch, Arrow and the C++ library.
NO_MEMORY = re.compile(r"MemoryError|Unable to allocate|can't allocate memory|malloc of size|bad_alloc|Cannot allocate")
# Controls but newline and tab, the C1 ones, and marks that turn text around.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
OUR_LINE = "llava-moe: "


def judge(outcome: Outcome, pages: Iterable[Path] = ()) -> list[Finding]:
    """The faults of an outcome, at most one of a kind; an act that was refused explains what came after it."""
    found = [Finding(kind, what) for kind, what in dict(outcome.events).items()]
    text = outcome.errors + outcome.output
    # On a busy machine it may have had its time and more.
    if outcome.timed_out or outcome.cpu_seconds > SECONDS:
        return [
            *found,
            Finding("hang", f"{outcome.seconds:.1f} s, {outcome.cpu_seconds:.1f} of them at work{_place(text)}"),
        ]
    if outcome.peak_bytes > MEMORY or NO_MEMORY.search(text):
        told = f"{outcome.peak_bytes / GIBIBYTE:.2f} GiB at the peak{_place(text)}"
        return [*found, Finding("memory", told)]
    if found:
        return found
    if outcome.status < 0:
        return [Finding("crash", f"signal {-outcome.status}: {text[-300:]}")]
    if outcome.status not in (0, 2) or "Traceback (most recent call last)" in text:
        return [Finding("traceback", f"status {outcome.status}: {_last_line(text)}{_place(text)}")]
    if control := CONTROLS.search(text):
        found.append(
            Finding("escape", f"{control[0]!a} in {text[max(0, control.start() - 60) : control.end() + 20]!a}")
        )
    lines = [line for line in outcome.errors.splitlines() if line.startswith(OUR_LINE)]
    if outcome.status == 2 and outcome.errors and len(lines) != 1:
        found.append(Finding("wordy", f"{len(lines)} lines tell what is wrong: {outcome.errors[-300:]!r}"))
    return found + [fault for page in pages for fault in _judge_page(page)]


def _judge_page(page: Path) -> list[Finding]:
    reader = _Page()
    reader.feed(page.read_text(encoding="utf-8", errors="replace"))
    return [Finding("page", f"{page.name}: {told}") for told in reader.found[:1]]


class _Page(HTMLParser):
    """What of a page came alive that should have been text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attrs:
            if (name.startswith("on") and MARK in (value or "")) or MARK in name:
                self.found.append(f"<{tag} {name}={value!r}>")
        if MARK in tag:
            self.found.append(f"<{tag}>")

    def handle_data(self, data: str) -> None:
        if self._open == "script" and re.search(rf"(?<!['\"\w\\]){MARK}\(", data):
            self.found.append(f"<script> with {data[:100]!r}")


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"


def _place(text: str) -> str:
    """The innermost line of this package that a traceback names."""
    # The fault handler begins with the innermost frame, a traceback ends with it.
    frames = re.findall(r'File "([^"]*/llava_moe/[^"]+)", line (\d+),? in (\w+)', text)
    if not frames:
        return ""
    file, line, function = frames[0] if "most recent call first" in text else frames[-1]
    return f" ({file.rpartition('/llava_moe/')[2]}:{line} {function})"
