"""Raw files by path or address: found, opened, and read record by record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from llava_moe.data.readers.json_rows import read_json_stream
from llava_moe.errors import UserError

SUFFIXES = (".parquet", ".json", ".jsonl")


def is_address(path: str) -> bool:
    """Whether a path is an address such as ``hf://datasets/...`` or ``file:///...``."""
    return "://" in path


def is_litter(name: str, asked: str) -> bool:
    """Whether a file that was found for ``asked`` is hidden or what a Mac's archiver adds (``__MACOSX/._a.json``);
    what the user named himself is not."""
    found = set(name.split("/")) - set(asked.split("/"))
    return any(part.startswith(".") or part == "__MACOSX" for part in found)


def find_raw(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Files of a path in order: itself, the files of a folder with one of the suffixes, or those a glob matches.

    Raises:
        UserError: nothing is there.
    """
    if is_address(path):
        return _find_remote(path, suffixes)
    place = Path(path).expanduser()
    if place.is_dir():
        there = (str(file) for file in place.iterdir() if file.suffix in suffixes)
        files = sorted(name for name in there if not is_litter(name, str(place)))
        if not files:
            raise UserError(f"no {', '.join(suffixes[:-1])} or {suffixes[-1]} file in {place}; check path")
        return files
    if place.exists():
        return [str(place)]
    matches = glob(str(place)) if has_magic(str(place)) else []
    files = sorted(name for name in matches if os.path.isfile(name) and not is_litter(name, str(place)))
    if not files:
        raise UserError(f"no file {place}; check path")
    return files


def open_raw(path: str) -> BinaryIO:
    """Open a local file or an address for reading bytes.

    Raises:
        UserError: it cannot be opened.
    """
    if is_address(path):
        try:
            return cast(BinaryIO, fsspec.open(path, "rb").open())
        except Exception as error:
            raise unreachable(path, error) from error
    try:
        return open(path, "rb")
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
            yield from read_json_stream(path, file)
            return
        try:
            # Pyarrow would read all row groups ahead: a file of a gigabyte would stand in memory whole.
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            for batch in table.iter_batches(batch_size=64):
                yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not a readable Parquet file ({reason}); fetch it again") from error


def _find_remote(path: str, suffixes: tuple[str, ...]) -> list[str]:
    try:
        system, inside = url_to_fs(path)
        if has_magic(inside):
            found = [name for name in system.glob(inside) if system.isfile(name)]
        elif system.isdir(inside):
            found = [name for name in system.ls(inside, detail=False) if str(name).endswith(suffixes)]
        else:
            found = [inside] if system.exists(inside) else []
    except Exception as error:
        raise unreachable(path, error) from error
    found = [name for name in found if not is_litter(name, inside)]
    if not found:
        raise UserError(f"no file {path}; check the address")
    return sorted(system.unstrip_protocol(name) for name in found)
