"""What was found in a view: bad records one by one, notes counted with the first few shown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_moe.data.quarantine import Quarantined
from llava_moe.data.records import Entry
from llava_moe.datatools.check.fault_kinds import KINDS, is_fault, is_listed
from llava_moe.datatools.check.scan import NUM_SHOWN, Found
from llava_moe.datatools.check.stage_view import View

BLOCK = 256


@dataclass
class Findings:
    """The account of one view.

    Attributes:
        faults: why a record goes on the list, by its number in the file: its first fault, or else what training takes.
        waiting: faults that only count where training takes the record, its images with it.
        dropped: numbers of the records that training leaves out for their length.
        counts: by kind, what the kind counts (records or images).
        shown: the first places of each kind.
    """

    view: View
    faults: dict[int, Found] = field(default_factory=dict)
    waiting: list[Found] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))

    def add(self, found: Iterable[Found]) -> None:
        """Enter what is listed (a record's first is its own) and notes, each counted."""
        for one in found:
            if is_listed(one.kind):
                if one.number in self.faults:
                    continue
                self.faults[one.number] = one
            self.note(one.kind, 1, [one])

    def note(self, kind: str, count: int, shown: Sequence[Found]) -> None:
        """Count ``count`` more of a kind."""
        self.counts[kind] += count
        room = NUM_SHOWN - len(self.shown[kind])
        self.shown[kind] += shown[: max(0, room)]

    @property
    def num_bad(self) -> int:
        """Records with a fault: training leaves them out by itself, and stops where they are too many."""
        return sum(is_fault(one.kind) for one in self.faults.values())

    @property
    def listed_alone(self) -> Counter[str]:
        """By kind, the records that training takes unless it is given the list."""
        return Counter(one.kind for one in self.faults.values() if not is_fault(one.kind))


def entries_of(view: View, rows: np.ndarray) -> Iterator[tuple[int, Entry]]:
    """The entries of some rows (ascending), neighbours read together."""
    at = 0
    while at < len(rows):
        first = int(rows[at])
        end = int(np.searchsorted(rows, first + BLOCK))
        together = end - at > 4
        entries = view.records.read(first, first + BLOCK if together else first + 1)
        for place in range(at, end if together else at + 1):
            yield int(rows[place]), entries[int(rows[place]) - first]
        at = end if together else at + 1


def name_rows(view: View, rows: np.ndarray, kind: str, details: Sequence[str]) -> list[Found]:
    """Rows (ascending) with a kind, their numbers and ids looked up."""
    return [
        Found(row, entry.number, entry.id, kind, kind, detail)
        for (row, entry), detail in zip(entries_of(view, rows), details, strict=True)
    ]


def quarantine_list(findings: Sequence[Findings]) -> tuple[list[Quarantined], list[str]]:
    """The records to leave out of training, and the names of sources that no list can speak of.

    A list knows a record by its source's name and its number. Where stages read a source differently, a record goes on
    the list only if every stage has a fault with it (or leaves it out for its length): what is bad as a caption may be
    good as a conversation, and each stage's own index leaves out what its text rules out. A name that stands for
    different files in different stages gets no entry.
    """
    listed: list[Quarantined] = []
    ambiguous: list[str] = []
    by_name: dict[str, list[Findings]] = defaultdict(list)
    for one in findings:
        by_name[one.view.source.name].append(one)
    for name, alike in by_name.items():
        if len({(one.view.source.path, one.view.source.format) for one in alike}) > 1:
            if any(one.faults for one in alike):
                ambiguous.append(name)
            continue
        for number in sorted({number for one in alike for number in one.faults}):
            if all(number in one.faults or number in one.dropped or _lacks(one, number) for one in alike):
                found = next(one.faults[number] for one in alike if number in one.faults)
                domain = alike[0].view.source.domain
                total = alike[0].view.records.num_in_files
                listed.append(Quarantined(name, domain, number, found.id, found.reason, _told(found), total))
    return listed, ambiguous


def _lacks(findings: Findings, number: int) -> bool:
    """Whether the view has no such record: it reads another split."""
    return findings.view.records.find(number) is None


def _told(found: Found) -> str:
    return found.detail if found.kind == found.reason else f"{found.kind}: {found.detail}"


def kinds_found(findings: Sequence[Findings]) -> list[str]:
    """The kinds that occur, in the order of ``KINDS``."""
    return [kind for kind in KINDS if any(one.counts[kind] for one in findings)]
