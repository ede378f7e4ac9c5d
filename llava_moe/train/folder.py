"""A run's folder: one run, one configuration, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from llava_moe.errors import UserError
from llava_moe.own_files import read_object
from llava_moe.train.checkpoint import last_checkpoint, write_atomically

FINISHED = "finished.json"
# What may differ between two starts of one run: it changes how the work is done, or when it is given up, and the result
# only by rounding. What a message of ours advises to change is among them.
FREE_KEYS = (
    *("log", "parallel", "eval", "out"),
    *("data.num_workers", "data.max_bad_share"),
    *("train.save_every", "train.keep_last", "train.num_threads", "train.max_nonfinite_steps"),
    *("train.tokens_per_micro_batch", "train.activation_checkpointing"),
)

# Where other settings take their values from: they say nothing of the result themselves.
SOURCES_OF_VALUES = ("stage.demo", "stage.without_adapter")

# What a run of an earlier release did without a word, by the keys that say so today.
AS_BEFORE = {"data.exif": "ignore", "data.alpha": "drop"}


class FolderLock:
    """Keeps a second process out of a run's folder while this one lives; the kernel drops it on any death."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"

    def __enter__(self) -> FolderLock:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+")
        except OSError as error:
            raise UserError(
                f"{folder} cannot be a run's folder ({error.strerror}): choose another with out="
            ) from error
        try:
            # A record lock, not flock: data workers are forked, and would hold an flock on when this process is killed.
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.seek(0)
            holder = self.file.read().strip() or "unknown"
            self.file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{folder} cannot be locked ({error.strerror}): choose a folder on another disk with out="
                ) from error
            raise UserError(
                f"{folder} is in use by process {holder}: wait for it, or choose another folder with out="
            ) from error
        self.file.seek(0)
        self.file.truncate()
        self.file.write(str(os.getpid()))
        self.file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def claim_configuration(folder: Path, config: Mapping[str, Any], text: str) -> None:
    """Write ``config.yaml``, or refuse a folder that another configuration began.

    A folder where nothing was trained yet is free: what stopped the last try may be the setting that differs.

    Args:
        config: the resolved configuration as plain containers; ``text`` is the same as YAML.

    Raises:
        UserError: naming the differing keys.
    """
    digest = folder / ".config.json"
    flat = flatten(config)
    if digest.is_file() and _has_trained(folder):
        before = AS_BEFORE | _read_flat(digest)
        differing = sorted(
            key for key in before.keys() | flat.keys() if before.get(key) != flat.get(key) and not _is_free(key)
        )
        if differing:
            shown = ", ".join(f"{key} ({before.get(key)!r} there, {flat.get(key)!r} asked)" for key in differing[:5])
            raise UserError(
                f"{folder} holds a run of another configuration; differing: {shown}"
                f"{f' and {len(differing) - 5} more' if len(differing) > 5 else ''}. "
                "Choose another folder with out=, or give the same settings"
            )
    write_atomically(folder / "config.yaml", text)
    write_atomically(digest, json.dumps(flat, default=str))


def _has_trained(folder: Path) -> bool:
    log = folder / "log.jsonl"
    return last_checkpoint(folder) is not None or (log.is_file() and log.stat().st_size > 0)


def _read_flat(digest: Path) -> dict[str, Any]:
    return read_object(digest, "put it back, or choose another folder with out=")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, name + ".")
        else:
            flat[name] = value
    return flat


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in (*FREE_KEYS, *SOURCES_OF_VALUES))
