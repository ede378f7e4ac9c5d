"""Atomic checkpoints: written beside, completed by a marker, renamed into place, found through ``last``.

``checkpoints/step-000500/`` holds what the caller's ``write_weights`` puts there (``adapter/``,
``projector.safetensors``, ``model/``), ``state.json``, ``engine/`` (optimizer, masters, random numbers), ``COMPLETE``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from llava_moe.errors import FULL_DISK, UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.checkpoint_names import ASIDE, checkpoint_folders, is_checkpoint_name, step_of_name
from llava_moe.files.our_files import read_text
from llava_moe.files.run_places import absent_run
from llava_moe.train.state import RunState

if TYPE_CHECKING:
    # Words that name a run are judged without torch.
    import torch

    from llava_moe.train.engine import Engine

MARKER = "COMPLETE"
# The name of a stage's folder in the folder of an experiment of several: its number first.
STAGE_NAME = re.compile(r"(\d+)-[\w.-]+")
WriteWeights = Callable[[Path, Mapping[str, "torch.Tensor"]], None]


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


def name_best(folder: Path, checkpoint: Path | None) -> None:
    """Make ``best`` the name of a checkpoint, which is then never pruned; None: there is no best."""
    pointer = folder / "checkpoints" / "best"
    if checkpoint is None:
        pointer.unlink(missing_ok=True)
    else:
        replace_file(pointer, checkpoint.name + "\n")


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
    return load_state(checkpoint).step if named is None else named


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """The complete checkpoints in a run's folder ``checkpoints``, oldest first."""
    return [path for path in checkpoint_folders(checkpoints) if is_complete(path)]


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (path / MARKER).is_file()


def save_checkpoint(
    folder: Path,
    engine: Engine,
    state: RunState,
    write_weights: WriteWeights,
    keep_last: int = 2,
    is_best: bool = False,
) -> Path:
    """Write a checkpoint and make it ``last``, and ``best`` if it is; all ranks call it.

    Nothing that was there is touched before the new one is complete: a kill or a full disk at any moment leaves the
    older checkpoint and ``last`` as they were.

    Raises:
        UserError: the disk is full or not writable, or the run's folder is gone.
    """
    checkpoints = folder / "checkpoints"
    final = checkpoint_of(folder, state.step)
    partial = checkpoints / f".step-{state.step:06d}.partial"
    tensors = engine.trained_tensors()
    try:
        if engine.rank == 0:
            # A kill leaves what it interrupted, which may be of a step that is never saved again.
            for stale in checkpoints.glob(".step-*.partial"):
                shutil.rmtree(stale, ignore_errors=True)
            # Not with its parents: where the run's folder was unmounted, this would fill the disk beneath.
            checkpoints.mkdir(exist_ok=True)
            partial.mkdir()
            (partial / "engine").mkdir()
        engine.barrier()
        engine.save(partial / "engine")
        save_random_state(partial / "engine" / f"random-rank{engine.rank}.safetensors")
        if engine.rank == 0:
            write_weights(partial, tensors)
            state.write(partial / "state.json")
        engine.barrier()
        if engine.rank == 0:
            _publish(partial, final, checkpoints)
            if is_best:
                name_best(folder, final)
            _prune(checkpoints, final, keep_last)
        engine.barrier()
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, RuntimeError) and not is_full(error):
            raise
        raise UserError(_save_failure(error, final, folder)) from error
    return final


def load_checkpoint(checkpoint: Path, engine: Engine) -> RunState:
    """Restore optimizer, masters, weights that train and this rank's random numbers; return the position.

    Raises:
        UserError: a file is missing or damaged, or was written by other processes than these.
    """
    try:
        engine.load(checkpoint / "engine")
        load_random_state(checkpoint / "engine", engine.rank)
        return load_state(checkpoint)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):
            raise
        raise _not_resumable(checkpoint, _first_line(error)) from error


def load_state(checkpoint: Path) -> RunState:
    """The position of a checkpoint, before anything else of it is loaded.

    Raises:
        UserError: its file is missing or damaged.
    """
    try:
        return RunState.read(checkpoint / "state.json")
    except UserError as error:
        raise _not_resumable(checkpoint, str(error).partition(";")[0]) from error


def _not_resumable(checkpoint: Path, reason: str) -> UserError:
    others = [path.name for path in complete_checkpoints(checkpoint.parent) if path != checkpoint]
    instead = f"delete it to go on from {others[-1]}" if others else "there is no other checkpoint"
    return UserError(f"{checkpoint} cannot be resumed ({reason}): if it is damaged, {instead}")


def _publish(partial: Path, final: Path, checkpoints: Path) -> None:
    (partial / MARKER).write_text("")
    _sync(partial)
    # One that is there already is complete too: it stays findable until the new one stands in its place.
    aside = final.with_name(final.name + ASIDE)
    if final.exists():
        os.replace(final, aside)
    os.replace(partial, final)
    replace_file(checkpoints / "last", final.name + "\n")
    if aside.exists():
        _remove(aside)


def _sync(folder: Path) -> None:
    """Bring files to the disk: some file systems tell only then that they are full."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove(checkpoint: Path) -> None:
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _prune(checkpoints: Path, newest: Path, keep_last: int) -> None:
    kept = {newest.name, pointed_at(checkpoints / "best")}
    older = [path for path in checkpoint_folders(checkpoints) if path.name not in kept]
    for path in older[: max(0, len(older) - (keep_last - 1))]:
        _remove(path)


def save_random_state(path: Path) -> None:
    """Write torch's generators as tensors (data workers draw nothing: plan and order come from seeds)."""
    from safetensors.torch import save_file

    save_file(random_state(), path)


def random_state() -> dict[str, torch.Tensor]:
    """The state of torch's generators: uint8 bytes by device, ``cpu`` and, where there is one, ``cuda``."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_state(states: Mapping[str, torch.Tensor]) -> None:
    """Put torch's generators back to what :func:`random_state` gave."""
    import torch

    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def load_random_state(folder: Path, rank: int) -> None:
    """Restore what :func:`save_random_state` wrote for a rank.

    One that was not there draws from a seed that the first rank's state decides.

    Raises:
        OSError: there is no such file, not even of the first rank.
        SafetensorError, ValueError: it is damaged.
    """
    import torch
    from safetensors.torch import load_file

    path, first = (folder / f"random-rank{number}.safetensors" for number in (rank, 0))
    is_new = not path.is_file() and first.is_file()
    states = load_file(first if is_new else path)
    if is_new:
        seed = sha256(states["cpu"].numpy().tobytes() + str(rank).encode()).digest()
        torch.manual_seed(int.from_bytes(seed[:7], "big"))
        return
    try:
        set_random_state(states)
    except RuntimeError as error:
        raise ValueError(f"{path.name} holds no state of random numbers: {error}") from error


def is_full(error: Exception) -> bool:
    """Whether an error says that a disk is full, over quota, or a file as large as it may be."""
    # safetensors and torch tell it in words alone; torch's writer also loses count when a file takes no more.
    told = ("No space left", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed", "unexpected pos")
    return getattr(error, "errno", None) in FULL_DISK or any(words in str(error) for words in told)


def _save_failure(error: Exception, final: Path, folder: Path) -> str:
    reason = f"the disk is full ({_first_line(error)})" if is_full(error) else _first_line(error)
    if not folder.is_dir():
        reason = f"{folder} is gone: it was deleted, moved or unmounted"
    return f"cannot save {final}: {reason}; see to the disk"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
