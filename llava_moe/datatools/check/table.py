"""The table of a check: a row for each kind that was found, a column for each source."""

from __future__ import annotations

from dataclasses import dataclass

from llava_moe.data.shard_records import ShardRecords
from llava_moe.datatools.check.fault_kinds import KINDS, SEVERITIES, Kind
from llava_moe.datatools.check.findings import Findings, kinds_found
from llava_moe.datatools.check.run_check import Checked
from llava_moe.datatools.check.scan import Found


@dataclass(frozen=True)
class KindRow:
    """A kind with its counts, a number for each source of ``labels_of``."""

    kind: Kind
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Of all sources."""
        return sum(self.counts)


def labels_of(checked: Checked) -> list[str]:
    """The sources' labels, in their order."""
    return [one.view.label for one in checked.findings]


def kind_rows(checked: Checked) -> list[KindRow]:
    """Faults, then what only the list leaves out, then notes; each in the order in which the kinds are listed."""
    rows = [
        KindRow(KINDS[kind], tuple(one.counts[kind] for one in checked.findings))
        for kind in kinds_found(checked.findings)
    ]
    return sorted(rows, key=lambda row: SEVERITIES.index(row.kind.severity))


def first_found(checked: Checked, kind: str) -> tuple[Findings, Found] | None:
    """The first place of a kind, in the order of the sources."""
    for one in checked.findings:
        if one.shown.get(kind):
            return one, one.shown[kind][0]
    return None


def place_of(findings: Findings, found: Found) -> str:
    """Where a record stands, for people."""
    path, records, number = findings.view.source.path, findings.view.records, found.number
    if isinstance(records, ShardRecords):
        for shard, first in zip(records.shards, records.numbers.tolist(), strict=True):
            if first <= number < first + shard.num_records:
                return f"{records.folder / shard.file}, row {number - first:,} (record {number:,} of the folder)"
    return f"{path}, record {number:,} (counted from 0)"
