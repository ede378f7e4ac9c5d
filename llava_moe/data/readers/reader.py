"""What a raw format is to the rest: its files, its records in order, and the row that each becomes.

Reading is in two halves. ``records`` goes through a file from its start and does whatever must be done in order (M3IT
draws its instructions so); ``row`` looks at one record alone, in any process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from llava_moe.data.readers.row import Row


@dataclass(frozen=True)
class RawFile:
    """A file of raw records.

    Attributes:
        path: local, or an address that fsspec opens (``hf://datasets/...``).
        split: what the file's name says its records are; None where the records say so themselves, or nothing does.
        beside: files it is read together with, such as M3IT's instructions.
        label: a name for the file's records where they carry none, such as M3IT's ``coco``.
    """

    path: str
    split: str | None = None
    beside: tuple[str, ...] = ()
    label: str | None = None


class Reader(Protocol):
    """One raw format."""

    def find(self, path: str) -> list[RawFile]:
        """The files of a path (a file, a folder, a glob, an address) in order.

        Raises:
            UserError: naming the file that was looked for.
        """

    def records(self, file: RawFile) -> Iterator[Any]:
        """The raw records in order, with memory that does not grow with the file.

        Raises:
            UserError: the file cannot be read; with the line.
        """

    def row(self, record: Any, number: int) -> Row:
        """The row of one record; nothing but the record decides it.

        Raises:
            BadRecord: it cannot be read as a record.
        """
