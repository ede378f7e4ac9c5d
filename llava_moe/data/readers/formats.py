"""The raw formats by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llava_moe.data.conversation import BadRecord
from llava_moe.data.readers.conflict import ConflictReader
from llava_moe.data.readers.files import find_raw, raw_records
from llava_moe.data.readers.json_values import FaultyRecord
from llava_moe.data.readers.llava import llava_row
from llava_moe.data.readers.m3it import M3itReader
from llava_moe.data.readers.m3it80 import M3it80Reader
from llava_moe.data.readers.messages import messages_row
from llava_moe.data.readers.part import PartReader
from llava_moe.data.readers.pathvqa import PathVqaReader
from llava_moe.data.readers.reader import RawFile, Reader
from llava_moe.data.readers.records import records_row
from llava_moe.data.readers.row import Row, faulty_row
from llava_moe.data.readers.tree import split_within
from llava_moe.data.readers.ureader import UReader
from llava_moe.plugins import Plugin, Registry, lacking


@dataclass(frozen=True)
class PlainReader:
    """A format whose records stand in JSON, JSON Lines or Parquet files, each complete in itself."""

    make_row: Callable[[Mapping[str, Any], int], Row]

    def find(self, path: str) -> list[RawFile]:
        """See :class:`Reader`."""
        return [RawFile(file, split_within(path, file)) for file in find_raw(path)]

    def records(self, file: RawFile) -> Iterator[Any]:
        """See :class:`Reader`."""
        return raw_records(file.path)

    def row(self, record: Any, number: int) -> Row:
        """See :class:`Reader`."""
        return self.make_row(record, number)


def _judged(plugin: Plugin, found: Any) -> Reader:
    """The reader of another package: an object, or a class that is made without arguments.

    Raises:
        UserError: naming what it lacks.
    """
    reader: Reader = plugin.made(found)
    if lack := lacking(reader, {"find": None, "records": None, "row": None}):
        raise plugin.refused(f"{lack}; docs/contributing/a_format.md says what a format has")
    return reader


FORMATS: Registry[Reader] = Registry(
    "formats",
    {
        "llava": PlainReader(llava_row),
        "records": PlainReader(records_row),
        "messages": PlainReader(messages_row),
        "m3it": M3itReader(),
        "m3it80": M3it80Reader(),
        "ureader": UReader(),
        "pathvqa": PathVqaReader(),
        "conflict": ConflictReader(),
        "part": PartReader(),
    },
    _judged,
)
"""By what ``format=`` says: ours, and those of installed packages (``llava_moe.formats``)."""


def row_of(reader: Reader, record: Any, number: int) -> Row:
    """The row of a record, or the faulty row that names what is wrong with it."""
    if isinstance(record, FaultyRecord):
        return faulty_row(record.content, number, record.fault)
    try:
        if not isinstance(record, Mapping):
            raise BadRecord("not_a_conversation", f"the record is {type(record).__name__}, not an object")
        return reader.row(record, number)
    except BadRecord as fault:
        return faulty_row(record, number, fault)
