"""Parquet and TSV files of benchmarks, which carry their images inside, laid out once in the cache.

A benchmark of many gigabytes is opened in seconds afterwards, and its questions hold paths, not pixels.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from llava_moe.data.readers import store
from llava_moe.data.readers.files import open_raw, raw_records
from llava_moe.data.readers.json_values import FaultyRecord, SpelledNumber
from llava_moe.data.readers.waited_lock import waited_lock
from llava_moe.errors import UserError
from llava_moe.text.structured_text import parse_json

Row = dict[str, Any]
LONGEST_LINE = 256 << 20
"""Characters of one line of TSV."""
_SHORTEST_IMAGE = 64
_LAYOUT = "2"
"""Raised whenever the same file would be laid out otherwise."""


class FoundImage(str):
    """The path of an image that was looked for, or was laid out here: it is not looked for again."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


def laid_out(file: str, benchmark: str, cache: Path) -> Iterator[Row]:
    """The rows of a Parquet or TSV file of a benchmark, whose cells hold paths in place of images.

    Raises:
        UserError: the file is damaged, the cache cannot be written, or is damaged itself.
    """
    key = store.fingerprint([file], cache, _LAYOUT)[:24]
    folder = cache / "benchmarks" / f"{store.slug(benchmark)}-{key}"
    index = folder / "rows.jsonl"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with waited_lock(folder):
            if not index.exists():
                _lay_out(file, folder)
    except OSError as error:
        raise UserError(
            f"cache {folder.parent}: cannot be written ({error.strerror}); set LLAVA_MOE_CACHE to another folder"
        ) from error
    with index.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = {name: _open_cell(value, folder) for name, value in parse_json(line).items()}
            except (ValueError, AttributeError) as error:
                raise UserError(f"{index}, line {number}: damaged; delete the folder {folder}") from error
            yield row


def _lay_out(file: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    rows = _tsv_rows(file) if file.endswith(".tsv") else raw_records(file)
    part = folder / "rows.part"
    with part.open("w", encoding="utf-8") as out:
        for number, row in enumerate(rows, start=1):
            if isinstance(row, FaultyRecord):
                raise UserError(f"{file}, record {number}: {row.fault.detail}; fetch the file again")
            kept = {name: _keep_cell(value, folder) for name, value in row.items()}
            out.write(json.dumps(kept, ensure_ascii=False, default=str) + "\n")
    part.rename(folder / "rows.jsonl")


def _keep_cell(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping) and "bytes" in value:
        value = value["bytes"] if value["bytes"] is not None else value.get("path")
    if isinstance(value, SpelledNumber):
        # A narrow float is the shortest decimal of its own width; a decimal keeps its places.
        return float(value.spelling) if repr(float(value.spelling)) == value.spelling else value.spelling
    if not isinstance(value, bytes | bytearray):
        return value
    name = sha256(value).hexdigest()
    path = folder / "images" / name
    if not path.exists():
        path.write_bytes(value)
    return {"image": name}


def _open_cell(value: Any, folder: Path) -> Any:
    # Trap: a column of the file itself may hold such an object, with a path that leads anywhere.
    if isinstance(value, dict) and set(value) == {"image"} and _is_hash(value["image"]):
        return FoundImage(folder / "images" / value["image"])
    return value


def _is_hash(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{64}", name) is not None


def _tsv_rows(file: str) -> Iterator[Row]:
    """Rows of a TSV whose column ``image`` is base64, or the index of the row that carries the same image."""
    # Base64 of a photograph is longer than the module's own limit.
    csv.field_size_limit(1 << 30)
    images: dict[str, bytes] = {}
    with open_raw(file) as opened, io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as text:
        try:
            reader = csv.DictReader(_short_lines(text, file), delimiter="\t")
            for row in reader:
                if None in row or None in row.values():
                    num_cells = sum(value is not None for key, value in row.items() if key is not None)
                    raise UserError(
                        f"{file}, line {reader.line_num}: {num_cells + len(row.get(None) or ())} cells where the "
                        f"header has {len(reader.fieldnames or ())}; the file is damaged, fetch it again"
                    )
                yield row | _tsv_image(row, images, f"{file}, line {reader.line_num}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not a readable TSV file ({error}); fetch it again") from error


def _short_lines(text: TextIO, file: str) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise UserError(
                f"{file}: has a line of more than {LONGEST_LINE:,} characters; it is damaged, fetch it again"
            )
        yield line


def _tsv_image(row: Row, images: dict[str, bytes], where: str) -> Row:
    cell = row.get("image")
    if not cell:
        return {}
    if cell in images:
        return {"image": images[cell]}
    if len(cell) < _SHORTEST_IMAGE:
        raise UserError(f"{where}: the image is {cell!r}, a row that does not stand before it; fetch the file again")
    try:
        image = base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: the image is not base64 ({error}); the file is damaged, fetch it again") from error
    # Rotations name the row of the first one instead of repeating its image.
    images[str(row.get("index", ""))] = image
    return {"image": image}
