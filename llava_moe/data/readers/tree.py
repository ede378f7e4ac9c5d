"""Files below a folder or an address, and what published file names say: the split, the date of a copy."""

from __future__ import annotations

import os
import re
from glob import glob, has_magic
from pathlib import Path

from fsspec.core import url_to_fs

from llava_moe.data.readers.files import find_raw, is_address, is_litter, refuse_copies, unreachable
from llava_moe.data.readers.splits import WORDS
from llava_moe.errors import UserError

JSON_LINES = (".jsonl", ".jsonl.gz")


def files_below(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files with one of the suffixes: itself, those anywhere below a folder, or those a glob (``**`` too) matches.

    In the order of their names; empty where nothing is there. Hidden files and folders are passed by.

    Raises:
        UserError: an address that cannot be reached, or a file beside its own compressed copy.
    """
    found = _below_address(path, suffixes) if is_address(path) else _below(path, suffixes)
    refuse_copies(found)
    return found


def otherwise_any(path: str, found: list[str], published: str) -> list[str]:
    """The files of a published set, or where none is there whatever of the path holds records, by the rules of every
    other format: rows of one's own with the set's keys are read from a folder as from the file itself.

    Args:
        published: how the set itself comes here, for the line that says that nothing is there.

    Raises:
        UserError: nothing is there.
    """
    if found:
        return found
    try:
        return find_raw(path)
    except UserError as error:
        raise UserError(f"{error}; {published}") from error


def _below(path: str, suffixes: tuple[str, ...]) -> list[str]:
    place = Path(path).expanduser()
    if place.is_file():
        return [str(place)]
    if place.is_dir():
        # Folders may be links to other disks, which Path.rglob does not enter.
        walk = os.walk(place, followlinks=True)
        found = (os.path.join(folder, name) for folder, _, names in walk for name in names)
    else:
        found = (name for name in glob(str(place), recursive=True) if os.path.isfile(name))
    return sorted(name for name in found if name.endswith(suffixes) and not is_litter(name, str(place)))


def _below_address(path: str, suffixes: tuple[str, ...]) -> list[str]:
    try:
        system, inside = url_to_fs(path)
        if has_magic(inside):
            found = [name for name in system.glob(inside) if str(name).endswith(suffixes)]
        elif system.isfile(inside):
            found = [inside]
        else:
            found = [name for name in system.find(inside) if str(name).endswith(suffixes)]
    except FileNotFoundError:
        return []
    except Exception as error:
        raise unreachable(path, error) from error
    return sorted(system.unstrip_protocol(name) for name in found if not is_litter(str(name), inside))


def neighbor(path: str, name: str) -> str | None:
    """The file of that name in the same folder or at the same address; None where there is none."""
    beside = f"{folder_of(path)}/{name}" if folder_of(path) else name
    if not is_address(beside):
        return beside if Path(beside).is_file() else None
    system, inside = url_to_fs(beside)
    return beside if system.isfile(inside) else None


def folder_of(path: str) -> str:
    """All of a path or address before its last name."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """The last name of a path or address."""
    return path.rpartition("/")[2]


def split_of(path: str) -> str | None:
    """The split that a file's name says: the first word of it that is one, a year or number behind it or not
    (``esnlive_train.jsonl`` is train, ``captions_val2014.json`` val)."""
    words = (word.rstrip("0123456789") for word in re.split(r"[._-]", name_of(path).lower()))
    return next((WORDS[word] for word in words if word in WORDS), None)


def split_within(root: str, path: str) -> str | None:
    """The split of a file found for ``root``: what its name says, else its folder's below ``root``.

    None for a file that is ``root`` itself: it was asked for, whatever its name.
    """
    if name_of(path) == name_of(root):
        return None
    told = split_of(path)
    start = root if is_address(root) else os.path.expanduser(root).rstrip("/")
    while has_magic(start):
        start = folder_of(start)
    folder = folder_of(path)
    while told is None and len(folder) > len(start):
        told, folder = WORDS.get(name_of(folder).lower()), folder_of(folder)
    return told


def date_of(path: str) -> str | None:
    """The date in a file's name (``train_2023-10-08.jsonl``), as copies that were made later carry it."""
    found = re.search(r"\d{4}-\d{2}-\d{2}", name_of(path))
    return found[0] if found else None
