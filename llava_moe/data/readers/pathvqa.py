"""PathVQA's files: ``image`` (``{"bytes", "path"}``), ``question``, ``answer``.

Source: flaviagiammarino/path-vqa.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llava_moe.data.conversation import ASSISTANT, IMAGE_PLACEHOLDER, USER, BadRecord
from llava_moe.data.readers.files import raw_records
from llava_moe.data.readers.image_refs import find_images, read_images
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.row import Row, new_row, optional_text
from llava_moe.data.readers.tree import files_below, otherwise_any, split_of, split_within

OPEN, CLOSED = "open", "closed"


class PathVqaReader:
    """See the module."""

    def find(self, path: str) -> list[RawFile]:
        """Parquet files of a folder tree, one file, those of a glob, or an address; the split is in the name.

        Where no Parquet is there, JSON and JSON Lines are read with the same keys.

        Raises:
            UserError: none is there.
        """
        found = otherwise_any(
            path,
            files_below(path, (".parquet",)),
            "PathVQA itself has files such as data/train-00000-of-00001.parquet: give the folder that "
            "`hf download flaviagiammarino/path-vqa --repo-type dataset --local-dir FOLDER` filled",
        )
        return [RawFile(name, split_of(name) or split_within(path, name)) for name in found]

    def records(self, file: RawFile) -> Iterator[Any]:
        """The raw records in order.

        Raises:
            UserError: the file cannot be read.
        """
        return raw_records(file.path)

    def row(self, record: Any, number: int) -> Row:
        """The row of one question; its task is ``closed`` where the answer is yes or no, else ``open``.

        Raises:
            BadRecord: ``not_a_conversation``, ``unreadable_text``, ``image_missing``, ``unread_media``.
        """
        question, answer = (optional_text(record.get(key), key) for key in ("question", "answer"))
        if question is None or answer is None:
            raise BadRecord("not_a_conversation", "the record lacks a question or an answer")
        images = read_images(find_images(record))
        if not images:
            raise BadRecord("image_missing", "the record has no image")
        turns = [
            {"role": USER, "text": f"{IMAGE_PLACEHOLDER}\n" * len(images) + question},
            {"role": ASSISTANT, "text": answer},
        ]
        task = CLOSED if answer.strip().lower() in ("yes", "no") else OPEN
        return new_row(record, number, images, turns, task, other_keys=("question", "answer"))
