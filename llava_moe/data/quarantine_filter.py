"""The list of records to leave out that ``data check`` wrote, applied to the indexes of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava_moe.data.held_out import take
from llava_moe.data.quarantine import Quarantined
from llava_moe.data.readers.path_suggestion import path_meant
from llava_moe.data.records import Records, Source
from llava_moe.data.source_index import SourceIndex
from llava_moe.errors import UserError
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import StructuredTextError, decode, parse_json

NUM_PROBES = 200
"""Listed records of a source that are held against the data by their ids."""


def read_list(path: Path) -> tuple[Quarantined, ...]:
    """Read a list: a JSON object a line, with the fields of ``Quarantined``; others are passed over.

    Raises:
        UserError: the file is not there, or a line is no such object.
    """
    try:
        lines = decode(read_regular(path.expanduser())).split("\n")
    except (OSError, StructuredTextError) as error:
        reason = getattr(error, "strerror", None) or error
        near = path_meant(path.expanduser()) if isinstance(error, FileNotFoundError) else ""
        raise UserError(
            f"data.quarantine={path}: cannot be read ({reason}){near}; give a list of llava-moe data check"
        ) from error
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
            entries.append(
                Quarantined(
                    source=str(fields["source"]),
                    domain=str(fields.get("domain", "")),
                    index=int(fields["index"]),
                    id=str(fields["id"]),
                    reason=str(fields["reason"]),
                    detail=str(fields.get("detail", "")),
                    num_records=int(fields.get("num_records", 0)),
                )
            )
        except (ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"data.quarantine={path}, line {number}: no record of a quarantine list ({error!r}); write it again "
                "with llava-moe data check"
            ) from error
    return tuple(entries)


def leave_out(
    sources: Sequence[Source],
    records: Sequence[Records],
    indexes: Sequence[SourceIndex],
    listed: Sequence[Quarantined],
    path: Path,
) -> tuple[tuple[SourceIndex, ...], tuple[Quarantined, ...]]:
    """The indexes without the listed records, and the listed records that these sources hold.

    What is left is planned exactly as if the listed records had never been there. Records of sources that the mixture
    does not have are passed over.

    Raises:
        UserError: the list was made of other data, or leaves nothing of a source.
    """
    by_source: dict[str, list[Quarantined]] = {}
    for entry in listed:
        by_source.setdefault(entry.source, []).append(entry)
    kept, accepted = [], []
    for source, content, index in zip(sources, records, indexes, strict=True):
        mine = by_source.get(source.name, [])
        if not mine:
            kept.append(index)
            continue
        rows = _rows_of(source, content, mine, path)
        is_kept = ~np.isin(index.rows, [row for row in rows if row is not None])
        if not is_kept.any():
            raise UserError(
                f"data.quarantine={path} leaves nothing of source {source.name!r}: fix the source, or drop it from "
                "the mixture"
            )
        kept.append(take(index, is_kept))
        accepted += [entry for entry, row in zip(mine, rows, strict=True) if row is not None]
    return tuple(kept), tuple(accepted)


def _rows_of(source: Source, records: Records, listed: Sequence[Quarantined], path: Path) -> list[int | None]:
    """The place of each listed record; None for one of another split."""
    total = records.num_in_files
    probes = set(np.linspace(0, len(listed) - 1, min(NUM_PROBES, len(listed))).astype(int).tolist())
    rows = []
    for place, entry in enumerate(listed):
        if entry.num_records not in (0, total) or not 0 <= entry.index < total:
            there = f"of {entry.num_records:,} " if entry.num_records else ""
            raise UserError(
                f"data.quarantine={path} was made of other data: it lists record {entry.index} {there}of "
                f"{source.name!r}, which has {total:,} here; run llava-moe data check again"
            )
        row = records.find(entry.index)
        if place in probes and row is not None and records.read(row, row + 1)[0].id != entry.id:
            raise UserError(
                f"data.quarantine={path} was made of other data: record {entry.index} of {source.name!r} is not "
                f"{entry.id!r} here; run llava-moe data check again"
            )
        rows.append(row)
    return rows
