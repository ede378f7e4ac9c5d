"""Finished pieces of a measurement on the disk: killed and started again, it goes on.

``<run>/analyze/.<instrument>/<key>/<piece>.npz``; the key names all that was asked, so that other questions never meet
these answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from llava_moe.errors import UserError


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
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except (OSError, zipfile.BadZipFile, EOFError, KeyError, ValueError):
            return None

    def put(self, name: str, **arrays: np.ndarray) -> None:
        """Keep a piece, whole or not at all; any rank may call it for its own.

        Raises:
            UserError: the disk is full or the folder not writable.
        """
        self._write(self._path(name), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def put_flat(self, name: str, flat: np.ndarray) -> None:
        """Keep one long array, of which :meth:`map_flat` reads parts; raises as :meth:`put`."""
        self._write(self._path(name, ".npy"), lambda file: np.save(file, flat))

    def map_flat(self, name: str, num_values: int) -> np.ndarray | None:
        """What :meth:`put_flat` kept, on the disk and not in memory; None where it is not there or damaged."""
        try:
            flat = np.load(self._path(name, ".npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError):
            return None
        return flat if flat.shape == (num_values,) else None

    def _write(self, path: Path, write: Callable[[IO[bytes]], None]) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                write(file)
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
