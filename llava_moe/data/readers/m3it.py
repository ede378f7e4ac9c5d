"""M3IT: ``data/<group>/<name>/{train,val,test}.jsonl`` with the images in the records, instructions often beside.

Three shapes of record, which may be mixed in a file:

- older rows, ``{"inputs", "outputs", "image_base64_str": [...]}``: the instruction is drawn from the folder's
  ``instructions.json``; rows that carry their ``"instruction"`` keep it;
- rephrased rows, ``{"meta": {"instruction", "inputs", "image_base64_str": [...]}, "answer"}``;
- the Parquet conversion HuggingFaceM4/M3IT: ``instruction, inputs, outputs, image``.

The prompt is the instruction, and behind a newline the inputs where there are any. Source: M3IT.py of
MMInstruction/M3IT, which draws with seed 1234; that each file's draw starts again is an assumption.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from llava_moe.data.conversation import ASSISTANT, IMAGE_PLACEHOLDER, USER, BadRecord
from llava_moe.data.readers.files import open_raw, raw_records
from llava_moe.data.readers.image_refs import are_same, find_images, is_empty, items_of, read_images
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.row import Row, new_row, optional_text
from llava_moe.data.readers.tree import (
    JSON_LINES,
    date_of,
    files_below,
    folder_of,
    name_of,
    neighbor,
    otherwise_any,
    split_of,
)
from llava_moe.errors import UserError
from llava_moe.text.structured_text import StructuredTextError, parse_json

INSTRUCTIONS = "instructions.json"
SEED = 1234
_SIZES = ("tiny", "small", "med", "medium", "large")
"""Words for subsets of one another, smallest first, as in ``shapes/train.large.jsonl``."""
_IMAGES = ("image_base64_str", "image", "images", "image_str")


class M3itReader:
    """See the module."""

    def find(self, path: str) -> list[RawFile]:
        """Files of a folder tree, a file, a glob or an address. Copies are left out: of the files of one folder and
        split, a dated one where there is an original (else the latest date), and smaller subsets of the largest.

        Raises:
            UserError: nothing is there.
        """
        found = otherwise_any(
            path,
            files_below(path, (*JSON_LINES, ".parquet")),
            "M3IT itself has files such as data/captioning/coco/train.jsonl: give the folder that "
            "`hf download MMInstruction/M3IT --repo-type dataset --local-dir FOLDER` filled, or a .jsonl of it",
        )
        copies = copies_among(found)
        return [self._raw_file(name) for name in found if name not in copies]

    def records(self, file: RawFile) -> Iterator[Any]:
        """Raw records in order, each with its instruction and its set's name as ``task``; what is drawn depends on the
        file alone.

        Raises:
            UserError: an unreadable file; a record without an instruction where there is none to draw.
        """
        instructions: list[str] | None = None
        draw = random.Random(SEED)
        for number, record in enumerate(raw_records(file.path)):
            if not isinstance(record, Mapping):
                yield record
                continue
            labeled = record if file.label is None else {"task": file.label, **record}
            if "meta" in record or record.get("instruction") is not None:
                yield labeled
                continue
            if instructions is None:
                if not file.beside:
                    raise UserError(
                        f"{file.path}, record {number}: has no instruction, and no {INSTRUCTIONS} lies beside the "
                        "file to draw one from; fetch it from the same folder of MMInstruction/M3IT"
                    )
                instructions = read_instructions(file.beside[0])
            yield {**labeled, "instruction": draw.choice(instructions)}

    def row(self, record: Any, number: int) -> Row:
        """The row of one record: one question, one answer, the images' placeholders before the question.

        Raises:
            BadRecord: ``not_a_conversation``, ``unreadable_text``, ``image_unreadable``, ``unread_media``.
        """
        flat = flatten(record)
        _refuse_hidden(record)
        images = embedded_images(flat)
        asked = (optional_text(flat.get(key), key) or "" for key in ("instruction", "inputs"))
        prompt = "\n".join(text for text in asked if text)
        question = f"{IMAGE_PLACEHOLDER}\n" * len(images) + prompt
        answer = optional_text(flat.get("outputs"), "outputs")
        if answer is None:
            raise BadRecord("not_a_conversation", "the record has neither outputs nor answer")
        turns = [{"role": USER, "text": question}, {"role": ASSISTANT, "text": answer}]
        read = ("meta", "instruction", "inputs", "outputs", "answer")
        return new_row(flat, number, images, turns, flat.get("task"), _IMAGES, read)

    def _raw_file(self, path: str) -> RawFile:
        instructions = neighbor(path, INSTRUCTIONS) if path.endswith(JSON_LINES) else None
        label = name_of(folder_of(path)) or None
        if label in ("data", ".") or path.endswith(".parquet"):
            label = None
        return RawFile(path, split_of(path), () if instructions is None else (instructions,), label)


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of either shape with the names of the older one: instruction, inputs, outputs and the images' key."""
    meta = record.get("meta")
    flat = {key: value for key, value in record.items() if key not in ("meta", "answer")}
    if isinstance(meta, Mapping):
        flat |= {key: value for key, value in meta.items() if not is_empty(value) or is_empty(flat.get(key))}
    if flat.get("outputs") is None:
        flat["outputs"] = record.get("answer")
    return flat


def _refuse_hidden(record: Mapping[str, Any]) -> None:
    """Refuse a record whose images beside ``meta`` are others than those in it."""
    meta = record.get("meta")
    own, inner = find_images(record, _IMAGES), find_images(meta, _IMAGES) if isinstance(meta, Mapping) else None
    if not is_empty(own) and not is_empty(inner) and not are_same(own, inner):
        raise BadRecord("unread_media", "the record and its meta hold different images: which are meant?")


def embedded_images(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The images of a record, whose text is base64 and never a path.

    Raises:
        BadRecord: ``image_unreadable``, text that no image can be decoded from; ``unread_media``.
    """
    value = find_images(record, _IMAGES)
    items = [] if value is None else items_of(value)
    images = []
    for number, item in enumerate(items, 1):
        if not item:
            raise BadRecord("image_unreadable", f"image {number} of {len(items)} is empty")
        # As a data URI, text that is not base64 is a fault; bare text would be taken for a path.
        is_bare = isinstance(item, str) and not item.startswith("data:")
        images += read_images(f"data:image;base64,{item}" if is_bare else item)
    return images


def copies_among(paths: list[str]) -> set[str]:
    """Those of the files that repeat another one of the same folder and split."""
    groups: dict[tuple[str, str | None], list[str]] = {}
    for path in paths:
        groups.setdefault((folder_of(path), split_of(path)), []).append(path)
    copies: set[str] = set()
    for (_, split), group in groups.items():
        if split is None or len(group) == 1:
            continue
        dates = {path: date_of(path) for path in group}
        originals = [path for path in group if dates[path] is None]
        kept = set(originals or [max(group, key=lambda path: dates[path] or "")])
        sizes = {path: _size(path) for path in kept}
        largest = max(sizes.values())
        copies |= {path for path in group if path not in kept or (largest >= 0 and sizes[path] not in (largest, -1))}
    return copies


def _size(path: str) -> int:
    words = name_of(path).split(".")
    return next((_SIZES.index(word) for word in words if word in _SIZES), -1)


def read_instructions(path: str) -> list[str]:
    """The instructions of a folder, in the file's order.

    Raises:
        UserError: the file is no list of texts.
    """
    with open_raw(path) as file:
        try:
            value = parse_json(file.read())
        except StructuredTextError as error:
            raise UserError(f"{path}: not valid JSON ({error}); fetch it again") from error
    if isinstance(value, Mapping):
        value = value.get("instructions")
    texts = value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []
    if not texts:
        raise UserError(f"{path}: no list of instructions; fetch it again from MMInstruction/M3IT")
    return texts
