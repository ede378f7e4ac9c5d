"""Atomic checkpoints: written beside, completed by a marker, renamed into place; ``files.checkpoints`` finds them.

``checkpoints/step-000500/`` holds what the caller's ``write_weights`` puts there (``adapter/``,
``projector.safetensors``, ``model/``), ``state.json``, ``engine/`` (optimizer, masters, random numbers), ``COMPLETE``.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import replace_file
from llava_moe.files.checkpoint_names import ASIDE, checkpoint_folders
from llava_moe.files.checkpoints import MARKER, STATE, checkpoint_of, not_resumable, pointed_at
from llava_moe.files.full_disk import is_full
from llava_moe.train.state import RunState
from llava_moe.train.whole_state import MASTER, write_states

if TYPE_CHECKING:
    from llava_moe.train.engine import Engine

WriteWeights = Callable[[Path, Mapping[str, torch.Tensor]], None]


def name_best(folder: Path, checkpoint: Path | None) -> None:
    """Make ``best`` the name of a checkpoint, which is then never pruned; None: there is no best."""
    pointer = folder / "checkpoints" / "best"
    if checkpoint is None:
        pointer.unlink(missing_ok=True)
    else:
        replace_file(pointer, checkpoint.name + "\n")


States = Iterable[tuple[str, Mapping[str, torch.Tensor]]]
"""Of each trained parameter by name: its master and what the optimizer keeps of it."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is written from, on rank 0.

    Attributes:
        position: how far the run is.
        states: of all trained parameters; they may be collected while they are gone through.
        random: the state of torch's generators of each rank, see :func:`random_state`.
    """

    position: RunState
    states: States
    random: Sequence[Mapping[str, torch.Tensor]]


def write_checkpoint(
    folder: Path, snapshot: Snapshot, write_weights: WriteWeights, keep_last: int = 2, is_best: bool = False
) -> Path:
    """Write a checkpoint and make it ``last``, and ``best`` if it is; one process does, and touches no device.

    Nothing that was there is touched before the new one is complete: a kill or a full disk at any moment leaves the
    older checkpoint and ``last`` as they were. All states are gone through, whatever fails: other ranks may take part.

    Raises:
        UserError: the disk is full or not writable, or the run's folder is gone.
    """
    checkpoints = folder / "checkpoints"
    final = checkpoint_of(folder, snapshot.position.step)
    partial = checkpoints / f".{final.name}.partial"
    states = iter(snapshot.states)
    try:
        # A kill leaves what it interrupted, which may be of a step that is never saved again.
        for stale in checkpoints.glob(".step-*.partial"):
            shutil.rmtree(stale, ignore_errors=True)
        # Not with its parents: where the run's folder was unmounted, this would fill the disk beneath.
        checkpoints.mkdir(exist_ok=True)
        partial.mkdir()
        (partial / "engine").mkdir()
        masters: dict[str, torch.Tensor] = {}
        write_states(partial / "engine", _noting_masters(states, masters))
        for rank, state in enumerate(snapshot.random):
            save_file(dict(state), partial / "engine" / f"random-rank{rank}.safetensors")
        write_weights(partial, masters)
        snapshot.position.write(partial / STATE)
        _publish(partial, final, checkpoints)
        if is_best:
            name_best(folder, final)
        _prune(checkpoints, final, keep_last)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, RuntimeError) and not is_full(error):
            raise
        raise UserError(_save_failure(error, final, folder)) from error
    finally:
        deque(states, maxlen=0)
    return final


def _noting_masters(states: States, masters: dict[str, torch.Tensor]) -> States:
    for name, state in states:
        on_cpu = {kind: one.to("cpu") for kind, one in state.items()}
        masters[name] = on_cpu[MASTER].float()
        yield name, on_cpu


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
        raise not_resumable(checkpoint, _first_line(error)) from error


def load_state(checkpoint: Path) -> RunState:
    """The position of a checkpoint, before anything else of it is loaded.

    Raises:
        UserError: its file is missing or damaged.
    """
    try:
        return RunState.read(checkpoint / STATE)
    except UserError as error:
        raise not_resumable(checkpoint, str(error).partition(";")[0]) from error


def _publish(partial: Path, final: Path, checkpoints: Path) -> None:
    (partial / MARKER).write_text("")
    _sync(partial)
    # One that is there already is complete too: it stays findable until the new one stands in its place.
    aside = final.with_name(final.name + ASIDE)
    if final.exists():
        # One that a kill has left: where both stand, the other is the newer.
        _remove(aside)
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


def random_state() -> dict[str, torch.Tensor]:
    """The state of torch's generators: uint8 bytes by device, ``cpu`` and, where there is one, ``cuda``."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_state(states: Mapping[str, torch.Tensor]) -> None:
    """Put torch's generators back to what :func:`random_state` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def load_random_state(folder: Path, rank: int) -> None:
    """Restore what :func:`random_state` gave on a rank.

    One that was not there draws from a seed that the first rank's state decides.

    Raises:
        OSError: there is no such file, not even of the first rank.
        SafetensorError, ValueError: it is damaged.
    """
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


def _save_failure(error: Exception, final: Path, folder: Path) -> str:
    reason = f"the disk is full ({_first_line(error)})" if is_full(error) else _first_line(error)
    if not folder.is_dir():
        reason = f"{folder} is gone: it was deleted, moved or unmounted"
    return f"cannot save {final}: {reason}; see to the disk"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
