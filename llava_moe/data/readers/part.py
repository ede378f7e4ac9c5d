"""A part of a file of our own records: those of some tasks, or all with kinds of question that training never sees.

``FILE,tasks=A|B`` reads the records of these tasks alone. ``FILE,unseen=A|B`` leaves questions of these kinds out of
the split ``train``, and all others out of every other split: a model is trained on some kinds and asked about those
that it has not met. The column ``kinds`` names the kind of each question. A record that is left without a question is
none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from llava_moe.data.readers.files import find_raw, raw_records
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.records import records_row
from llava_moe.data.readers.row import Row
from llava_moe.data.readers.splits import TRAIN, settled
from llava_moe.data.readers.tree import split_within
from llava_moe.errors import UserError

_PATH = re.compile(r"(?P<file>.+),(?P<chosen>(?:tasks|unseen)=[^,=]+)")


class PartReader:
    """See the module."""

    def find(self, path: str) -> list[RawFile]:
        """The files, with what is chosen of them as their label.

        Raises:
            UserError: nothing is chosen, or no such file is there.
        """
        match = _PATH.fullmatch(path)
        if match is None:
            raise UserError(f"{path} chooses no part: give FILE,tasks=A|B or FILE,unseen=A|B")
        files = find_raw(match["file"])
        return [RawFile(file, split_within(match["file"], file), label=match["chosen"]) for file in files]

    def records(self, file: RawFile) -> Iterator[Any]:
        """The records that are chosen, in order.

        Raises:
            UserError: the file cannot be read, or has no such task or kind.
        """
        assert file.label is not None
        by, _, names = file.label.partition("=")
        chosen, met = names.split("|"), set[str]()
        choose = _of_tasks if by == "tasks" else partial(_without_unseen, file.split)
        for number, record in enumerate(raw_records(file.path)):
            if not isinstance(record, Mapping):  # a faulty one, which is told of as it is
                yield record
                continue
            try:
                kept = choose(record, chosen, met)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                told = f"record {number} does not name the kind of each question in kinds"
                raise UserError(f"{file.path}: {told}, which unseen= goes by: leave unseen= out") from error
            if kept is not None:
                yield kept
        if missing := [name for name in chosen if name not in met]:
            raise UserError(f"{file.path} has no {missing[0]!r}, which {file.label} names: check path")

    def row(self, record: Any, number: int) -> Row:
        """As that of our own records.

        Raises:
            BadRecord: as there.
        """
        return records_row(record, number)


def _of_tasks(record: Mapping[str, Any], chosen: list[str], met: set[str]) -> Mapping[str, Any] | None:
    task = record.get("task")
    if task not in chosen:
        return None
    met.add(task)
    return record


def _without_unseen(
    split: str | None, record: Mapping[str, Any], chosen: list[str], met: set[str]
) -> Mapping[str, Any] | None:
    kinds, turns = record["kinds"], record["conversations"]
    met.update(kinds)
    is_trained = settled(record.get("split") or split) == TRAIN
    pairs = zip(kinds, turns[::2], turns[1::2], strict=True)
    kept = [turn for kind, *pair in pairs if (kind in chosen) != is_trained for turn in pair]
    return {**record, "conversations": kept} if kept else None
