"""Which format raw files are in, where nobody says it: told by their first records, by keys or by what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.json_values import FaultyRecord
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.shapes import (
    EXAMPLE,
    KNOWN_BY_KEYS,
    holds_anything,
    nearest_format,
    shape_of,
    unknown_shape,
)
from llava_moe.data.records import AUTO, Source
from llava_moe.errors import UserError

NUM_PEEKED = 100
"""Records at the head of a file that its format is told by."""
MADE_UP = "conflict"
"""The format that has no files."""


def tell_format(source: Source, files: Sequence[RawFile]) -> str:
    """The format of a source's files: the one that it asks for, else what the keys of the first records tell.

    Raises:
        UserError: nothing tells it.
    """
    if source.format != AUTO:
        return source.format
    reader = FORMATS["records"]
    # The first file may be empty, or hold another split. A record that is faulty as a whole still shows its keys.
    found = (record for file in files for record in reader.records(file))
    records = [one.content if isinstance(one, FaultyRecord) else one for one in islice(found, NUM_PEEKED)]
    where = f"data source {source.name!r}: {files[0].path if len(files) == 1 else source.path}"
    if not any(isinstance(record, Mapping) for record in records):
        raise UserError(f"{where} holds no records; check path and format")
    # A file may start with bad records, which say nothing of the others.
    shape = next((shape for record in records if (shape := shape_of(record)) is not None), None)
    if shape is not None:
        return shape
    full = next((record for record in records if isinstance(record, Mapping) and holds_anything(record)), None)
    if full is None:
        return "records"
    some = "first " if len(records) == NUM_PEEKED else ""
    raise UserError(
        f"{where}: none of {some}{len(records)} records is usable, since no reader knows their keys: "
        f"{unknown_shape(full)}; {_remedy(source, full)}"
    )


def _remedy(source: Source, record: Mapping[str, Any]) -> str:
    """What to do with records that no reader tells by their keys: the format that reads them as they are, if one does.

    The nearest of several formats may read a file that ``auto`` does not take: few keys are too little to tell it by.
    """
    nearest = nearest_format(record)
    if nearest not in KNOWN_BY_KEYS and row_of(FORMATS[nearest], record, 0)["fault"] is None:
        try:
            FORMATS[nearest].find(source.path)
        except UserError:
            pass
        else:
            return f"data.sources.{source.name}.format={nearest} reads them as they are"
    return f"rewrite them so, for example {EXAMPLE}"


def reading_formats(path: str) -> list[str]:
    """The formats, of those that no keys tell, by which most of a path's first records can be read; the best first."""
    counts = {}
    for name in FORMATS:
        if name in (*KNOWN_BY_KEYS, MADE_UP):
            continue
        try:
            reader = FORMATS[name]
            found = (record for file in reader.find(path) for record in reader.records(file))
            faults = [
                row_of(reader, record, number)["fault"] for number, record in enumerate(islice(found, NUM_PEEKED))
            ]
        except UserError:
            continue
        except Exception:
            # A reader of another package may trip over records that are not its own, in whatever way.
            if not FORMATS.origin(name):
                raise
            continue
        counts[name] = sum(fault is None for fault in faults)
    return [name for name in sorted(counts, key=lambda name: -counts[name]) if counts[name]]
