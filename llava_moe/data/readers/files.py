"""Raw files by path or address: found, opened, and read record by record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from llava_moe.data.readers.arrow_rows import refuse_doubled, rows_of
from llava_moe.data.readers.compressed_files import PACKED, remedy_for, unpacked
from llava_moe.data.readers.json_rows import read_json_stream
from llava_moe.data.readers.parquet_batches import bounded_batches
from llava_moe.data.readers.path_suggestion import path_meant
from llava_moe.data.readers.splits import WORDS
from llava_moe.errors import UserError
from llava_moe.files.regular_file import check_regular, open_regular

SUFFIXES = (".parquet", ".json", ".jsonl", ".ndjson")
_WANTED = ".parquet, .json or .jsonl"
_METADATA = ("dataset_info.json", "dataset_infos.json")
"""What the datasets library writes beside its files; no records."""


def is_address(path: str) -> bool:
    """Whether a path is an address such as ``hf://datasets/...`` or ``file:///...``."""
    return "://" in path


def is_litter(name: str, asked: str) -> bool:
    """Whether a file that was found for ``asked`` is hidden or what a Mac's archiver adds (``__MACOSX/._a.json``);
    what the user named himself is not."""
    found = set(name.split("/")) - set(asked.split("/"))
    return any(part.startswith(".") or part == "__MACOSX" for part in found)


def find_raw(path: str) -> list[str]:
    """Files of a path in order: itself, those of a folder that hold records, or those a glob matches.

    Of a folder without such a file those in ``data/`` and in folders named after a split (``train/``, ``test/``).

    Raises:
        UserError: nothing is there that can be read, or a file beside its own compressed copy.
    """
    if is_address(path):
        return _find_remote(path)
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(_of_folder(place))
        if not files:
            raise UserError(f"{_none_in(str(place), sorted(os.listdir(place)))}")
    elif place.exists():
        files = [str(place)]
    else:
        matches = glob(str(place)) if has_magic(str(place)) else []
        files = sorted(name for name in matches if os.path.isfile(name) and not is_litter(name, str(place)))
        if not files:
            raise UserError(f"no file {place}{path_meant(place)}; check path")
    return _settled(files)


def holds_records(name: str) -> bool:
    """Whether a file's name says that it holds records, compressed or not."""
    bare = next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)
    return bare.endswith(SUFFIXES) and not (bare != name and bare.endswith(".parquet")) and _last(name) not in _METADATA


def _of_folder(place: Path) -> list[str]:
    there = [entry for entry in place.iterdir() if not is_litter(str(entry), str(place))]
    files = [str(entry) for entry in there if holds_records(entry.name) and not entry.is_dir()]
    if files:
        return files
    inner = [entry for entry in there if _may_hold(entry.name) and entry.is_dir()]
    return [file for folder in inner for file in _of_folder(folder)]


def _may_hold(folder: str) -> bool:
    return folder == "data" or folder.lower() in WORDS


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _none_in(place: str, names: list[str]) -> str:
    for name in names:
        if (remedy := remedy_for(os.path.join(place, name))) is not None:
            return f"no {_WANTED} file in {place}; {name}: {remedy}"
    return f"no {_WANTED} file in {place}; check path"


def _settled(files: list[str]) -> list[str]:
    """The files, none of which is of a kind that is not read or stands there twice.

    Raises:
        UserError: naming the file and what to do.
    """
    for name in files:
        if (remedy := remedy_for(name)) is not None and not is_address(name):
            raise UserError(f"{name}: {remedy}")
    refuse_copies(files)
    return files


def refuse_copies(files: Sequence[str]) -> None:
    """Raise ``UserError`` for a file beside its own compressed copy: its records would count twice."""
    known = set(files)
    for name in files:
        bare = next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)
        if bare != name and bare in known:
            raise UserError(f"{bare} and {name} are both there: move one of them away, or give the other as path")


def open_raw(path: str) -> BinaryIO:
    """Open a local file or an address for reading bytes.

    Raises:
        UserError: it cannot be opened.
    """
    if is_address(path):
        try:
            system, inside = url_to_fs(path)
            if isinstance(system, LocalFileSystem):
                check_regular(inside)
            return cast(BinaryIO, system.open(inside, "rb"))
        except Exception as error:
            raise unreachable(path, error) from error
    try:
        return open_regular(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({reason}); check the data source's path") from error


def unreachable(path: str, error: Exception) -> UserError:
    """What to say of an address that failed: behind it stands any of fsspec's backends, each with a network library's
    own exceptions, so that no narrower kind can be named."""
    reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    if isinstance(error, ImportError):
        is_web = path.startswith(("http://", "https://"))
        remedy = "pip install aiohttp requests" if is_web else "install what is named there"
        return UserError(f"{path}: cannot be read without another package ({reason}): {remedy}")
    return UserError(f"{path}: cannot be reached ({reason}); check the address and the network")


def raw_records(path: str) -> Iterator[Any]:
    """The records of a JSON list, JSON Lines or Parquet file, one at a time.

    Raises:
        UserError: the file is missing, damaged or empty; the line says where.
    """
    try:
        yield from _read(path)
    except UserError:
        raise
    except Exception as error:
        if not is_address(path):
            raise
        raise unreachable(path, error) from error


def _read(path: str) -> Iterator[Any]:
    with open_raw(path) as file:
        if not path.endswith(".parquet"):
            with unpacked(path, file) as content:
                yield from read_json_stream(path, content)
            return
        try:
            # Pyarrow would read all row groups ahead: a file of a gigabyte would stand in memory whole.
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            refuse_doubled(path, table.schema_arrow)
            for batch in bounded_batches(path, table, file):
                yield from rows_of(batch)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last one: of columns' names
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not a readable Parquet file ({reason}); fetch it again") from error


def _find_remote(path: str) -> list[str]:
    try:
        system, inside = url_to_fs(path)
        if has_magic(inside):
            found = [name for name in system.glob(inside) if system.isfile(name)]
        elif system.isdir(inside):
            found = _of_remote_folder(system, inside)
        else:
            found = [inside] if system.exists(inside) else []
    except Exception as error:
        raise unreachable(path, error) from error
    found = [name for name in found if not is_litter(name, inside)]
    if not found:
        raise UserError(f"no file {path}; check the address")
    return _settled(sorted(system.unstrip_protocol(name) for name in found))


def _of_remote_folder(system: Any, folder: str) -> list[str]:
    there = [(str(entry["name"]).rstrip("/"), entry["type"]) for entry in system.ls(folder, detail=True)]
    files = [name for name, kind in there if kind == "file" and holds_records(name)]
    if files:
        return files
    inner = [name for name, kind in there if kind == "directory" and _may_hold(_last(name))]
    return [file for name in inner for file in _of_remote_folder(system, name)]
