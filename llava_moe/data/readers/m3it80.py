"""M3IT-80: seven sets in eighty languages, texts in ``data/<task>/<task>_<split>_<language>.jsonl``.

The images stand in the originals beside them, ``<split>_500.jsonl`` (or ``_800``), and are joined by row number.
Source: MMInstruction/M3IT-80.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from llava_moe.data.readers.files import raw_records
from llava_moe.data.readers.m3it import M3itReader, flatten
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.row import Row
from llava_moe.data.readers.tree import JSON_LINES, files_below, folder_of, name_of
from llava_moe.errors import UserError

_TRANSLATED = re.compile(
    r"(?P<task>.+)_(?P<split>train|val|validation|test)_(?P<language>[A-Za-z]{2,3}([_-]\w+)?)\.jsonl(\.gz)?"
)
_ORIGINAL = re.compile(r"(?P<split>train|val|validation|test)_\d+\.jsonl(\.gz)?")


class M3it80Reader:
    """See the module."""

    def find(self, path: str) -> list[RawFile]:
        """Translated files of a folder tree, one of them, those of a glob (``data/*/*_deu_Latn.jsonl``), or an address.

        Raises:
            UserError: none is there, or one has no original beside it.
        """
        named = [(name, _TRANSLATED.fullmatch(name_of(name))) for name in files_below(path, JSON_LINES)]
        found = [(name, match) for name, match in named if match]
        if not found:
            raise UserError(
                f"{path}: no M3IT-80 file, such as data/vqa-v2/vqa-v2_val_deu_Latn.jsonl, is there; give the folder "
                "that `hf download MMInstruction/M3IT-80 --repo-type dataset --local-dir FOLDER` filled, or one file"
            )
        originals = {folder: _originals(folder) for folder in {folder_of(name) for name, _ in found}}
        return [_raw_file(name, match, originals[folder_of(name)]) for name, match in found]

    def records(self, file: RawFile) -> Iterator[Any]:
        """Each translation laid over its original: what it does not say, the original does.

        Raises:
            UserError: an unreadable file, or one that ends before the other.
        """
        (original,) = file.beside
        for number, (text, source) in enumerate(zip_longest(raw_records(file.path), raw_records(original))):
            if text is None or source is None:
                short = file.path if text is None else original
                raise UserError(
                    f"{short}: ends at row {number}, and the file that it is joined with by row number does not; "
                    "fetch both again"
                )
            if not isinstance(text, Mapping) or not isinstance(source, Mapping):
                yield source if isinstance(text, Mapping) else text
                continue
            said = {key: value for key, value in flatten(text).items() if value is not None and value != []}
            yield {**flatten(source), "task": file.label, **said}

    def row(self, record: Any, number: int) -> Row:
        """As M3IT's.

        Raises:
            BadRecord: as there.
        """
        return M3itReader().row(record, number)


def _originals(folder: str) -> dict[str, str]:
    named = [(name, _ORIGINAL.fullmatch(name_of(name))) for name in files_below(folder or ".", JSON_LINES)]
    return {_split(match): name for name, match in named if match}


def _split(match: re.Match[str]) -> str:
    return "val" if match["split"] == "validation" else match["split"]


def _raw_file(path: str, match: re.Match[str], originals: dict[str, str]) -> RawFile:
    split = _split(match)
    if split not in originals:
        raise UserError(
            f"{path}: its images stand in {match['split']}_500.jsonl of the same folder, which is not there; fetch it "
            "from MMInstruction/M3IT-80"
        )
    return RawFile(path, split, (originals[split],), f"{match['task']}-{match['language']}")
