"""Finished pieces of a measurement on the disk: killed and started again, it goes on.

``<run>/analyze/.<instrument>/<key>/<piece>.npz``; the key names all that was asked, so that other questions never meet
these answers. A file ends in the CRC-32 of all before: what was damaged is made again, never counted on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from llava_moe.errors import UserError

_SUM_BYTES = 4
_CHUNK = 1 << 24


class _Summed:
    """A file that is written from its start to its end, and then takes the sum of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sum = file, 0

    def write(self, part: bytes) -> int:
        self._sum = zlib.crc32(part, self._sum)
        return self._file.write(part)

    def close_sum(self) -> None:
        self._file.write(self._sum.to_bytes(_SUM_BYTES, "little"))


class Pieces:
    """Named arrays that outlive the process.

    Args:
        folder: ``<run>/analyze``.
        asked: everything that the pieces depend on, as JSON can hold it: weights, records, settings.
    """

    def __init__(self, folder: Path, instrument: str, asked: Mapping[str, Any]) -> None:
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = folder / f".{instrument}" / self.key

    def get(self, name: str) -> dict[str, np.ndarray] | None:
        """A piece; None where it is not there, or damaged and so to be made again."""
        path = self._path(name)
        if not _is_whole(path):
            return None
        with np.load(io.BytesIO(path.read_bytes()[:-_SUM_BYTES]), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def put(self, name: str, **arrays: np.ndarray) -> None:
        """Keep a piece, whole or not at all; any rank may call it for its own.

        Raises:
            UserError: the disk is full or the folder not writable.
        """
        whole = io.BytesIO()
        np.savez(whole, **arrays)  # type: ignore[arg-type]
        self._write(self._path(name), lambda file: file.write(whole.getbuffer()))

    def put_flat(self, name: str, flat: np.ndarray) -> None:
        """Keep one long array, of which :meth:`map_flat` reads parts; raises as :meth:`put`."""
        self._write(self._path(name, ".npy"), lambda file: np.save(file, flat))

    def map_flat(self, name: str, num_values: int) -> np.ndarray | None:
        """What :meth:`put_flat` kept, on the disk and not in memory; None where it is not there or damaged."""
        path = self._path(name, ".npy")
        if not _is_whole(path):
            return None
        flat = np.load(path, mmap_mode="r", allow_pickle=False)
        return flat if flat.shape == (num_values,) else None

    def _write(self, path: Path, write: Callable[[Any], object]) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                summed = _Summed(file)
                write(summed)
                summed.close_sum()
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise UserError(
                f"cannot write {path} ({error.strerror or error}): free space, or give another folder with out=; "
                "finished pieces stand"
            ) from error

    def drop(self, *names: str) -> None:
        """Forget pieces that are no longer needed."""
        for name in names:
            for ending in (".npz", ".npy"):
                self._path(name, ending).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, ending: str = ".npz") -> Path:
        return self.folder / f"{name}{ending}"


def _is_whole(path: Path) -> bool:
    """Whether a file is there and ends in the sum of all before."""
    try:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size - _SUM_BYTES
            found = 0
            while left > 0 and (part := file.read(min(left, _CHUNK))):
                found, left = zlib.crc32(part, found), left - len(part)
            # An empty file's sum is zero: four zeros are no piece.
            return left == 0 and file.tell() > 0 and file.read() == found.to_bytes(_SUM_BYTES, "little")
    except OSError:
        return False
