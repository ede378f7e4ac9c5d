"""Records left out: written down once each with the reason, counted, and too many of them stop the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.our_files import read_objects

ENTRY = {"source": str, "domain": str, "index": int, "id": str, "reason": str, "detail": str, "num_records?": int}
"""A line of ``quarantine.jsonl``."""
TOO_LONG = "too_long"
"""Left out by the declared policy for long samples: written down, but not held against the source."""


@dataclass(frozen=True)
class Quarantined:
    """One record left out: where it stands (``index``: its number in the source's file, from 0) and why.

    ``num_records`` says how many records the source's files hold, where the entry is for another run to read: ids may
    be missing, and a list of other data should be told apart. 0: not said.
    """

    source: str
    domain: str
    index: int
    id: str
    reason: str
    detail: str
    num_records: int = 0


class Quarantine:
    """The account of records left out of a run, in memory and in ``quarantine.jsonl``.

    A run that resumes reads its own file back, so no record is written or counted twice.

    Args:
        path: the file; it appears with the first record.
        num_records: how many records each source holds.
        max_bad_share: the largest share of a source that may be bad.
        accepted: records that the user's own list leaves out: written down, but not held against the source.
    """

    def __init__(
        self,
        path: str | Path,
        num_records: Mapping[str, int],
        max_bad_share: float = 0.01,
        accepted: Iterable[Quarantined] = (),
    ) -> None:
        self.path = Path(path)
        self.num_records = dict(num_records)
        self._accepted = {(entry.source, entry.index) for entry in accepted}
        self.max_bad_share = max_bad_share
        self._entries: dict[tuple[str, int], Quarantined] = {}
        if self.path.exists():
            self._read()

    def add(self, entries: Iterable[Quarantined]) -> int:
        """Write the records that are new, and say how many they were.

        Raises:
            UserError: more than ``max_bad_share`` of a source is bad now (all are written first).
        """
        new = []
        for entry in entries:
            if (entry.source, entry.index) not in self._entries:
                self._entries[entry.source, entry.index] = entry
                new.append(entry)
        if new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(map(_line, new))
        self.check()
        return len(new)

    def keep_only(self, is_bad: Callable[[Quarantined], bool]) -> None:
        """Strike the records that are bad no more off the account and out of the file."""
        kept = {place: entry for place, entry in self._entries.items() if is_bad(entry)}
        if len(kept) == len(self._entries):
            return
        self._entries = kept
        self._rewrite()

    def _rewrite(self) -> None:
        replace_file(self.path, "".join(map(_line, self._entries.values())))

    def _read(self) -> None:
        # A last line without its end was cut short by a kill or a full disk; the record will be found again.
        for told in read_objects(self.path, "put it back, or delete it: records are found again", ENTRY):
            entry = Quarantined(**{name: told[name] for name in Quarantined.__dataclass_fields__ if name in told})
            self._entries.setdefault((entry.source, entry.index), entry)
        if not self.path.read_bytes().endswith(b"\n"):
            self._rewrite()

    def is_over(self) -> bool:
        """Whether more than ``max_bad_share`` of some source is bad."""
        return self._first_over() is not None

    def check(self) -> None:
        """Raise ``UserError`` for the first source of which too much is bad."""
        over = self._first_over()
        if over is None:
            return
        source, count = over
        reasons = Counter(
            entry.reason for entry in self._entries.values() if entry.source == source and self._counts(entry)
        )
        told = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common(3))
        likely = (source, reasons.most_common(1)[0][0])
        first = next(one for one in self._entries.values() if (one.source, one.reason) == likely and self._counts(one))
        raise UserError(
            f"data source {source!r}: {count} of {self.num_records[source]} records are bad ({told}), more than "
            f"data.max_bad_share={self.max_bad_share:g}; see {self.path} (such as record {first.index}: "
            f"{first.detail[:200]}), then fix the source or raise the share"
        )

    def _first_over(self) -> tuple[str, int] | None:
        bad = Counter(entry.source for entry in self._entries.values() if self._counts(entry))
        for source, count in sorted(bad.items()):
            if source in self.num_records and count > self.max_bad_share * self.num_records[source]:
                return source, count
        return None

    def _counts(self, entry: Quarantined) -> bool:
        return entry.reason != TOO_LONG and (entry.source, entry.index) not in self._accepted

    def __len__(self) -> int:
        return len(self._entries)

    def by_source(self) -> dict[str, int]:
        """Records left out of each source."""
        return dict(Counter(entry.source for entry in self._entries.values()))

    def by_domain(self) -> dict[str, int]:
        """Records left out of each domain."""
        return dict(Counter(entry.domain for entry in self._entries.values()))

    def by_reason(self) -> dict[str, int]:
        """Records left out for each reason."""
        return dict(Counter(entry.reason for entry in self._entries.values()))


def _line(entry: Quarantined) -> str:
    fields = asdict(entry)
    if not entry.num_records:
        del fields["num_records"]
    return json.dumps(fields, ensure_ascii=False) + "\n"
