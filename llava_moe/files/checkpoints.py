"""A run's checkpoints and an experiment's stages, found by the names and places of their files.

``checkpoints/step-000500/`` is whole once it holds ``COMPLETE``; ``checkpoints/last`` and ``best`` hold a name.
"""

from __future__ import annotations

import re
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.files.checkpoint_names import checkpoint_folders, is_checkpoint_name, step_of_name
from llava_moe.files.our_files import read_object, read_text
from llava_moe.files.run_places import absent_run

MARKER = "COMPLETE"
STATE = "state.json"
"""Where a checkpoint says how far its run had come."""
STATE_REMEDY = "put it back, or delete the checkpoint to go on from the one before"
# The name of a stage's folder in the folder of an experiment of several: its number first.
STAGE_NAME = re.compile(r"(\d+)-[\w.-]+")


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under ``folder/checkpoints``, or None."""
    checkpoints = folder / "checkpoints"
    name = pointed_at(checkpoints / "last")
    if name is not None and is_complete(named := checkpoints / name):
        return named
    complete = complete_checkpoints(checkpoints)
    return complete[-1] if complete else None


def newest_checkpoint(folder: Path) -> Path:
    """The newest complete checkpoint of a run, of the last stage of an experiment, or the checkpoint itself.

    Raises:
        UserError: there is none, or the folder is closed to us.
    """
    try:
        if (folder / MARKER).is_file():
            return folder
        for candidate in [folder, *reversed(stage_folders(folder))]:
            checkpoint = last_checkpoint(candidate)
            if checkpoint is not None:
                return checkpoint
        if not folder.exists():
            raise UserError(absent_run(folder))
        inside = sorted(str(path.parent) for path in folder.glob("*/config.yaml"))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}): give the folder of a run that is open to you"
        ) from error
    instead = f", such as {inside[0]}" if inside else ""
    raise UserError(f"{folder} holds no complete checkpoint: give the folder of a run that has saved one{instead}")


def pointed_at(pointer: Path) -> str | None:
    """The name of the checkpoint that ``last`` or ``best`` holds; None where there is no such file.

    Raises:
        UserError: the file is damaged: it names no checkpoint.
    """
    if not pointer.is_file():
        return None
    remedy = f"write the name of a checkpoint into it, or delete it: {pointer.name} is then found without it"
    name = read_text(pointer, remedy).strip()
    if not is_checkpoint_name(name):
        raise UserError(f"{pointer} is damaged (it names no checkpoint); {remedy}")
    return name


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies, if there is one."""
    return folder / "checkpoints" / f"step-{step:06d}"


def stage_folders(folder: Path) -> list[Path]:
    """The stages of an experiment's folder in order; none in any other folder, a folder of runs among them."""
    numbers = {
        path.parent: int(found[1])
        for path in folder.glob("*/config.yaml")
        if (found := STAGE_NAME.fullmatch(path.parent.name))
    }
    return sorted(numbers, key=numbers.__getitem__)


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint: its name says it, or its own file where somebody has renamed or linked it.

    Raises:
        UserError: neither does.
    """
    named = step_of_name(checkpoint.absolute().name)
    if named is not None:
        return named
    try:
        step: int = read_object(checkpoint / STATE, STATE_REMEDY, {"step": int})["step"]
    except UserError as error:
        raise not_resumable(checkpoint, str(error).partition(";")[0]) from error
    return step


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """The complete checkpoints in a run's folder ``checkpoints``, oldest first."""
    return [path for path in checkpoint_folders(checkpoints) if is_complete(path)]


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (path / MARKER).is_file()


def not_resumable(checkpoint: Path, reason: str) -> UserError:
    """The error that a checkpoint cannot be gone on from, and what to do."""
    others = [path.name for path in complete_checkpoints(checkpoint.parent) if path != checkpoint]
    instead = f"delete it to go on from {others[-1]}" if others else "there is no other checkpoint"
    return UserError(f"{checkpoint} cannot be resumed ({reason}): if it is damaged, {instead}")
