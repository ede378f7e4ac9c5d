"""UReader's records: ``{"image": [...], "conversations": [{"from": "user"|"assistant", "value"}], "task_type"}``.

The first user turn is ``<image>`` alone and the question a second one: they are merged when turns are settled. Images
are paths under one root, of which ``scan.tif.2`` is page 2 (from 0) of ``scan.tif``, or base64. The answer ``None`` is
legal: it says that a form lacks the field. A ``system_instruction`` that is not empty is the system text. Source:
Mizukiluke/ureader-instruction-1.0; doc_processor.py and xgpt3_dataset.py of UReader in mPLUG-DocOwl.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llava_moe.data.readers.files import raw_records
from llava_moe.data.readers.image_refs import find_images
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.row import Row, new_row, optional_text
from llava_moe.data.readers.shapes import CONVERSATION_KEYS, find_turns
from llava_moe.data.readers.tree import JSON_LINES, files_below, name_of, otherwise_any, split_of
from llava_moe.data.readers.turns import SYSTEM_KEYS, read_spoken


class UReader:
    """See the module."""

    def find(self, path: str) -> list[RawFile]:
        """The files of ``ureader_json``: ``train.jsonl`` and ``val.jsonl``, which are both training data, and tests.

        Raises:
            UserError: none is there.
        """
        found = files_below(path, JSON_LINES)
        # A file that was asked for is read whatever its name; below a folder other files may lie.
        if [name_of(name) for name in found] != [name_of(path)]:
            found = [name for name in found if split_of(name) is not None]
        found = otherwise_any(
            path,
            found,
            "UReader itself has files such as ureader_json/train.jsonl: give the folder into which "
            "ureader_json.zip of Mizukiluke/ureader-instruction-1.0 was unpacked, or a .jsonl of it",
        )
        return [_raw_file(name) for name in found]

    def records(self, file: RawFile) -> Iterator[Any]:
        """The raw records in order.

        Raises:
            UserError: the file cannot be read; with the line.
        """
        return raw_records(file.path)

    def row(self, record: Any, number: int) -> Row:
        """The row of one record; its task is the part of ``task_type`` before the processor's name (``qa_sft``: qa).

        Raises:
            BadRecord: as ``read_spoken``.
        """
        spoken = read_spoken(record, find_turns(record), find_images(record), opens=False)
        task = (optional_text(record.get("task_type"), "task_type") or "").rpartition("_")[0]
        read = (*CONVERSATION_KEYS, *SYSTEM_KEYS, "task_type", "prompt", "text")
        return new_row(record, number, spoken.images, spoken.turns, task or None, other_keys=read, system=spoken.system)


def _raw_file(path: str) -> RawFile:
    split = split_of(path)
    name = name_of(path).removesuffix(".gz").removesuffix(".jsonl")
    label = name.removeprefix("test_") if split == "test" and name.startswith("test_") else None
    return RawFile(path, "train" if split == "val" else split, (), label)
