"""A run's folder: one run, one configuration, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import remove_halves, replace_file
from llava_moe.files.checkpoints import last_checkpoint
from llava_moe.files.our_files import read_object
from llava_moe.files.regular_file import check_regular
from llava_moe.train.state import RunState

FINISHED = "finished.json"
ENVIRONMENT = "environment.json"
DIGEST = ".config.json"
LOCK = ".lock"
BAD_RECORDS = "quarantine.jsonl"
# How long a run is. It may be made longer; its schedule is then that of the new length, from where it stands.
LENGTHS = ("train.max_steps", "train.epochs")
# Where data and bases lie. They may be found elsewhere, by a run that recorded what they hold.
PLACES = re.compile(
    r"path|images|init_from|data\.(root|quarantine)|data\.sources\.[^.]+\.(path|images|folder)"
    r"|model\.(path|architecture\.(path|vision_tower|language_model|tokenizer))"
)
# What may differ between two starts of one run: it changes how the work is done, or when it is given up, and the result
# only by rounding. What a message of ours advises to change is among them.
FREE_KEYS = (
    *("log", "parallel", "eval", "out"),
    *("data.num_workers", "data.max_bad_share", "model.cache_features"),
    *("train.save_every", "train.keep_last", "train.num_threads", "train.max_nonfinite_steps"),
    *("train.stall_seconds", "train.rehearse", "train.async_save"),
    *("train.tokens_per_micro_batch", "train.activation_checkpointing"),
)

# Where other settings take their values from: they say nothing of the result themselves.
SOURCES_OF_VALUES = ("stage.demo", "stage.without_adapter")

# Keys that came later and only lend values, too: runs had their names before. A run is called by a hash of the others.
UNNAMED_KEYS = ("stage.demo.evening_steps",)

# What a run of an earlier release did without a word, by the keys that say so today.
AS_BEFORE = {"data.exif": "ignore", "data.alpha": "drop"}


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is a run's: it holds what a run writes first, or, copied without hidden files, what it keeps."""
    kept = ("config.yaml", "checkpoints")
    return (folder / LOCK).exists() or (folder / DIGEST).exists() or all((folder / name).exists() for name in kept)


class FolderLock:
    """Keeps a second process out of a run's folder while this one lives; the kernel drops it on any death.

    A start that ends with what the user has to fix before a step was taken leaves no run: what it wrote goes, and the
    folder too if it made it. The list of bad records stays where the message names it.

    Args:
        only_looks: no run is begun here: what was written goes at the end in any case.

    Raises:
        UserError: on entering: another process works there, a file in it is a link, or the disk does not let us.
    """

    def __init__(self, folder: Path, only_looks: bool = False) -> None:
        self.path, self.only_looks = folder / LOCK, only_looks

    def __enter__(self) -> FolderLock:
        folder = self.path.parent
        try:
            missing = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_links(folder)
            self.begun = None if is_run_folder(folder) else _Begun(tuple(missing), {*os.listdir(folder)})
            if self.path.exists():
                check_regular(self.path)
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
        for place in (folder, folder / "checkpoints"):
            remove_halves(place)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        folder = self.path.parent
        is_refused = kind is not None and issubclass(kind, UserError)
        # While it is locked: nobody else has begun here.
        if self.begun is not None and (is_refused or (self.only_looks and kind is None)) and not has_trained(folder):
            self.begun.take_back(folder, kept=folder / BAD_RECORDS if str(folder / BAD_RECORDS) in str(value) else None)
        self.file.close()


@dataclass(frozen=True)
class _Begun:
    """What there was before a run was begun: folders that were missing, innermost first, and names in its own."""

    missing: tuple[Path, ...]
    names: Set[str]

    def take_back(self, folder: Path, kept: Path | None) -> None:
        """Remove what was written since, all but ``kept``."""
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name in self.names or entry == kept:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with suppress(OSError):  # one that holds something stays
            for place in self.missing:
                place.rmdir()


def _refuse_links(folder: Path) -> None:
    """Refuse a run's folder in which a file is a link: what is written there would be written where it leads.

    Raises:
        UserError: naming the link. Links to folders, as of checkpoints on a larger disk, are followed.
    """
    for place in (folder, folder / "checkpoints"):
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            if entry.is_symlink() and not entry.is_dir():
                raise UserError(
                    f"{entry} is a link, and a run writes its own files: put the file itself there, or choose another "
                    "folder with out="
                )


@dataclass(frozen=True)
class FolderClaim:
    """A configuration for a folder, and where it differs from the one that a run there was begun with.

    Attributes:
        lengths, places: key -> what the run had and what is asked, of ``LENGTHS`` and of where data and bases lie.
    """

    folder: Path
    flat: Mapping[str, Any]
    text: str
    lengths: Mapping[str, tuple[Any, Any]]
    places: Mapping[str, tuple[Any, Any]]

    def confirm(self) -> None:
        """Make the configuration the run's own."""
        if self.lengths or self.places:
            # First: a run must never count as finished by a configuration that it was not trained by.
            (self.folder / FINISHED).unlink(missing_ok=True)
        replace_file(self.folder / "config.yaml", self.text)
        replace_file(self.folder / DIGEST, json.dumps(self.flat, default=str))


def claim_configuration(
    folder: Path, config: Mapping[str, Any], text: str, instead: str = "Choose another folder with out="
) -> FolderClaim:
    """Write ``config.yaml``, or refuse a folder that another configuration began.

    A folder where nothing was trained yet is free: what stopped the last try may be the setting that differs. A run may
    be made longer, or its data and base may lie elsewhere by now: such a configuration is written by ``confirm``,
    once what lies there was found to be the same.

    Args:
        config: the resolved configuration as plain containers; ``text`` is the same as YAML.
        instead: what to do where the folder is refused.

    Raises:
        UserError: naming the differing keys, or a length that is less than what was trained.
    """
    flat = flatten(config)
    differing = _differing(folder, flat)
    lengths = {key: pair for key, pair in differing.items() if key in LENGTHS}
    places = {key: pair for key, pair in differing.items() if _is_place(key, pair)}
    others = [key for key in differing if key not in lengths and (key not in places or not _tells_content(folder))]
    if others:
        shown = ", ".join(f"{key} ({differing[key][0]!r} there, {differing[key][1]!r} asked)" for key in others[:5])
        raise UserError(
            f"{folder} holds a run of another configuration; differing: {shown}"
            f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}. "
            f"Give the same settings, or a folder of its own: {instead}"
        )
    if lengths:
        _refuse_less_than_trained(folder, flat, instead)
    claim = FolderClaim(folder, flat, text, lengths, places)
    if not lengths and not places:
        claim.confirm()
    return claim


def is_finished(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a run has come to the end of the length that is asked, on what lies where it is looked for.

    Raises:
        UserError: what it was begun with is damaged.
    """
    if not (folder / FINISHED).is_file():
        return False
    differing = _differing(folder, flatten(config))
    return not any(key in LENGTHS or _is_place(key, pair) for key, pair in differing.items())


def changed_lengths(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of a run's length that differ from those it was begun with; none where nothing was trained.

    Raises:
        UserError: what it was begun with is damaged.
    """
    return {key: pair for key, pair in _differing(folder, flatten(config)).items() if key in LENGTHS}


def changes_to_go_on(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where a run differs from a configuration with which it could go on all the same; none where it could not.

    Raises:
        UserError: what it was begun with is damaged.
    """
    differing = _differing(folder, flatten(config))
    is_allowed = all(key in LENGTHS or _is_place(key, pair) for key, pair in differing.items())
    return differing if is_allowed else {}


def _differing(folder: Path, flat: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    digest = folder / DIGEST
    if not digest.is_file() or not has_trained(folder):
        return {}
    before = AS_BEFORE | _read_flat(digest)
    keys = sorted(key for key in before.keys() | flat.keys() if not _is_free(key))
    return {key: (before.get(key), flat.get(key)) for key in keys if before.get(key) != flat.get(key)}


def _is_place(key: str, pair: tuple[Any, Any]) -> bool:
    # A run that was started from none records no start to hold one against.
    return bool(PLACES.fullmatch(key)) and not (key == "init_from" and None in pair)


def _tells_content(folder: Path) -> bool:
    """Whether a run recorded what its data and base hold, so that it knows them again elsewhere."""
    environment = folder / ENVIRONMENT
    remedy = "put it back, or choose another folder with out="
    return environment.is_file() and "images" in read_object(environment, remedy, {"images?": {str: str}})


def _refuse_less_than_trained(folder: Path, flat: Mapping[str, Any], instead: str) -> None:
    """Refuse a length that the run has passed already."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return
    state = RunState.read(checkpoint / "state.json")
    steps, epochs = flat["train.max_steps"], flat["train.epochs"]
    if steps is not None:
        told, is_less = f"train.max_steps={steps}", steps < state.step
    else:
        told, is_less = f"train.epochs={epochs}", (epochs, 0) < (state.epoch, state.epoch_step)
    if is_less:
        raise UserError(
            f"{folder} has taken {state.step} steps (epoch {state.epoch}), and {told} asks for fewer: give at least as "
            f"many, or a folder of its own: {instead}"
        )


def has_trained(folder: Path) -> bool:
    """Whether a run in this folder has taken a step."""
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
