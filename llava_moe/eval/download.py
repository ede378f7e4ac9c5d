"""A benchmark's data as its source publishes it: files found in a folder or at an address, and read row by row.

JSON and JSON Lines name their images by path; Parquet and TSV carry them inside (``laid_out``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llava_moe.data.conversation import BadRecord, ImageRef
from llava_moe.data.images.paths import find_image
from llava_moe.data.readers.compressed_files import unpacked
from llava_moe.data.readers.files import is_address, open_raw, raw_records
from llava_moe.data.readers.json_values import FaultyRecord, parse_spelled_json
from llava_moe.data.readers.row import optional_text
from llava_moe.data.readers.tree import files_below, folder_of, name_of
from llava_moe.errors import UserError
from llava_moe.eval.laid_out import FoundImage, Row, laid_out

SUFFIXES = (".json", ".jsonl", ".tsv", ".parquet", ".txt", ".bin", "-ubyte", "-ubyte.gz")
_LISTS = ("data", "questions", "annotations")
MOST_BYTES = 256 << 20
"""Of a binary file."""
MOST_JSON = 512 << 20
"""Of JSON that is read at once; what is larger is read record by record."""
_HEAD = 1 << 16


@dataclass
class Download:
    """The files of one benchmark.

    Attributes:
        name: of the benchmark.
        place: a folder, a file, a glob or an address (``hf://datasets/...``).
        cache: folder that Parquet and TSV files are laid out in.
        remedy: how to get the data, for messages.
        missing: images that rows name and that are not there.
        reading: the file and record that was read last, for messages.
        file: the file that was read last.
    """

    name: str
    place: str
    cache: Path
    remedy: str
    missing: list[str] = field(default_factory=list)
    reading: str = ""
    file: str = ""
    _files: list[str] | None = None

    def find(self, *patterns: str) -> list[str]:
        """Files that the first pattern matches that matches any; a pattern is the end of a path (``en/dev-*.tsv``).

        A place that is one file, or a glob, was chosen by the user: there a pattern's suffix alone is held against it.
        """
        if self._files is None:
            self._files = files_below(self.place, SUFFIXES)
        chosen = not is_address(self.place) and not Path(self.place).expanduser().is_dir()
        for pattern in patterns:
            ending = f"*{pattern[pattern.rindex('.') :]}" if chosen and "." in pattern else pattern
            if matching := [file for file in self._files if _ends_as(file, ending)]:
                return matching
        return []

    def need(self, *patterns: str) -> list[str]:
        """As :func:`find`.

        Raises:
            UserError: nothing is there, the line says what was looked for and how to get it; or several lists of
                questions are, of which only the user knows which to ask.
        """
        found = self.find(*patterns)
        if len(lists := [file for file in found if file.endswith((".json", ".jsonl", ".tsv"))]) > 1:
            raise UserError(
                f"benchmark {self.name}: {lists[0]} and {lists[1]} both hold questions; name one of them with "
                f"benchmark_paths={{{self.name}: FILE}}"
            )
        if found:
            return found
        where = f"no {' and no '.join(patterns)} in {self.place}"
        if not is_address(self.place) and not Path(self.place).expanduser().exists():
            where = f"{self.place} does not exist"
        raise UserError(
            f"benchmark {self.name}: {where}; {self.remedy}, or say where the data lies: LLAVA_MOE_BENCHMARKS, or "
            f"benchmark_paths={{{self.name}: FOLDER}} of llava-moe eval"
        )

    def rows(self, file: str) -> Iterator[Row]:
        """The rows of a file; where it carries images, their cells hold paths.

        Raises:
            UserError: the file cannot be read or is damaged; the line says where.
        """
        found = laid_out(file, self.name, self.cache) if file.endswith((".parquet", ".tsv")) else _json_rows(file)
        for number, row in enumerate(found, start=1):
            self.reading, self.file = f"{file}, record {number}", file
            if isinstance(row, FaultyRecord):
                raise UserError(f"benchmark {self.name}: {self.reading}: {row.fault.detail}; fix or remove that record")
            if not isinstance(row, dict):
                raise UserError(f"{self.reading}, is no object with fields; fetch the file again")
            yield row

    def cell(self, row: Row, *columns: str) -> Any:
        """The first of the columns that the row has.

        Raises:
            UserError: it has none of them, or nothing stands there.
        """
        for column in columns:
            if row.get(column) is not None:
                return row[column]
        raise UserError(
            f"benchmark {self.name}: {self.reading}, has no {' or '.join(columns)}, only "
            f"{', '.join(sorted(row))[:200]}; the file is not of this benchmark, or damaged"
        )

    def text(self, row: Row, *columns: str) -> str:
        """As :func:`cell`, as text: a number as its file spells it.

        Raises:
            UserError: as there, and where ``NaN``, an infinity or a boolean stands.
        """
        return self.as_text(self.cell(row, *columns), columns[0])

    def as_text(self, value: Any, column: str) -> str:
        """A value of the row that is read, as :func:`text` has it."""
        try:
            told = optional_text(value)
        except BadRecord as fault:
            raise UserError(
                f"benchmark {self.name}: {self.reading}, {column}: {fault.detail}; fix that record"
            ) from fault
        if told is None:
            raise UserError(
                f"benchmark {self.name}: {self.reading}, {column}: text expected, got null; fix that record"
            )
        return FoundImage(told) if isinstance(value, FoundImage) else told

    def texts(self, row: Row, column: str) -> list[str]:
        """A list of texts, each as :func:`text` has it.

        Raises:
            UserError: as there, and where no list stands.
        """
        values = self.cell(row, column)
        if not isinstance(values, list):
            raise UserError(f"benchmark {self.name}: {self.reading}, {column}: is no list of texts; fix that record")
        return [self.as_text(value, f"{column}[{number}]") for number, value in enumerate(values)]

    def whole(self, file: str) -> Any:
        """What a JSON file holds, as one value; raises as :func:`rows` does."""
        self.reading = file
        value = next(iter(_json_values(file)), None)
        if isinstance(value, FaultyRecord):
            raise UserError(f"benchmark {self.name}: {file}: {value.fault.detail}; fix it, or fetch the file again")
        return value

    def bytes_of(self, file: str) -> bytes:
        """A whole binary file, unpacked where it is compressed; raises ``UserError`` where it cannot be read."""
        self.reading = file
        with open_raw(file) as opened, unpacked(file, opened) as content:
            found = content.read(MOST_BYTES + 1)
        if len(found) > MOST_BYTES:
            raise UserError(f"{file}: is larger than {MOST_BYTES:,} bytes, as none of {self.name} is; fetch it again")
        return found

    def image(self, name: str, *folders: str, beside: str) -> str:
        """The path of an image that a row of the file ``beside`` names.

        Looked for beside that file, at the place itself and one folder up, in each as named and by its last name in
        ``folders``. One that is not there is noted: :func:`refuse_missing` names it.
        """
        for one in [name, *(f"{folder}/{name_of(name)}" for folder in folders)]:
            if found := self.existing(one, beside):
                return found
        self.missing.append(name)
        return FoundImage(name)

    def settled(self, image: ImageRef) -> ImageRef:
        """An image of an item: what a row names by path and nobody has looked for yet is looked for, as all are."""
        is_name = isinstance(image, str) and not isinstance(image, FoundImage)
        return self.image(image, beside=self.file) if is_name and isinstance(image, str) else image

    def existing(self, name: str, beside: str) -> str | None:
        """The path of a file by its name, looked for as :func:`image` does; None where there is none.

        Raises:
            UserError: the name leads out of the benchmark's folder (by ``..``, as an absolute path, by a link), or the
                data lies at an address, where only files that carry their images can be read.
        """
        if is_address(beside):
            raise UserError(
                f"benchmark {self.name}: {beside} names its images by path, which are not read from an address; fetch "
                "the folder, or give the address of Parquet files"
            )
        folder = os.path.abspath(folder_of(beside) or ".")
        place = os.path.abspath(Path(self.place).expanduser())
        base = place if os.path.isdir(place) else folder
        if os.path.isabs(name) or ".." in name.split("/"):
            roots, name = [base], os.path.relpath(os.path.join(folder, name), base)
        else:
            roots = list(dict.fromkeys([folder, place, os.path.dirname(folder)]))
        for root in roots:
            try:
                found = find_image(name, root)
            except BadRecord as fault:
                if fault.reason == "image_missing":
                    continue
                raise UserError(f"benchmark {self.name}: {self.reading or beside}: {fault.detail}") from fault
            # Not a neighbour of another suffix: which of two files was meant is the benchmark's to say.
            if os.path.basename(found) == os.path.basename(name):
                return FoundImage(os.path.abspath(found))
        return None

    def refuse_missing(self, num_questions: int) -> None:
        """Raise ``UserError`` if a row named an image that is not there."""
        if self.missing:
            missing = dict.fromkeys(self.missing)
            raise UserError(
                f"benchmark {self.name}: {len(missing):,} of its images are missing under {self.place}, the first is "
                f"{next(iter(missing))}, needed by {len(self.missing):,} of {num_questions:,} questions; {self.remedy}"
            )


def _ends_as(file: str, pattern: str) -> bool:
    """Whether the last names of a path match the pattern's, one by one: no ``*`` reaches over a folder's end."""
    names = pattern.split("/")
    found = file.split("/")[-len(names) :]
    return len(found) == len(names) and all(map(fnmatchcase, found, names))


def texts_of(value: Any) -> tuple[str, ...]:
    """One or several answers as texts; the empty ones that hide a test split's answers are left out.

    Raises:
        BadRecord: an answer is ``NaN``, an infinity, a boolean, or neither text nor number.
    """
    if value is None:
        return ()
    answers = value if isinstance(value, list | tuple) else [value]
    said = (answer["answer"] if isinstance(answer, Mapping) else answer for answer in answers)
    found = tuple(optional_text(answer) or "" for answer in said)
    return found if any(found) else ()


def _json_rows(file: str) -> Iterator[Any]:
    for record in _json_values(file):
        inner = None
        if isinstance(record, dict):
            inner = next((record[key] for key in _LISTS if isinstance(record.get(key), list)), None)
        yield from [record] if inner is None else inner


def _json_values(file: str) -> Iterable[Any]:
    if file.endswith(".jsonl"):
        return raw_records(file)
    with open_raw(file) as opened:
        try:
            if opened.seek(0, io.SEEK_END) > MOST_JSON:
                return raw_records(file)
            opened.seek(0)
            head = opened.read(_HEAD)
            if b"\0" in head:  # no text: it is not read to its end to be told so
                return raw_records(file)
            text = head + opened.read()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error}); fetch it again") from error
    try:
        # Annotations of a whole benchmark are one object: read at once, in half the time.
        value = parse_spelled_json(text.decode("utf-8-sig"))
    except ValueError:
        return raw_records(file)  # JSON Lines behind the name of JSON; of a damaged file it says where
    return value if isinstance(value, list) else [value]
