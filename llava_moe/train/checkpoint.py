"""Atomic checkpoints: written beside, completed by a marker, renamed into place, found through ``last``.

``checkpoints/step-000500/`` holds what the caller's ``write_weights`` puts there (``adapter/``,
``projector.safetensors``, ``model/``), ``state.json``, ``engine/`` (optimizer, masters, random numbers), ``COMPLETE``.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llava_moe.errors import UserError
from llava_moe.train.engine import Engine
from llava_moe.train.state import RunState

MARKER = "COMPLETE"
WriteWeights = Callable[[Path, Mapping[str, torch.Tensor]], None]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under ``folder/checkpoints``, or None."""
    checkpoints = folder / "checkpoints"
    pointer = checkpoints / "last"
    if pointer.is_file() and _is_complete(named := checkpoints / pointer.read_text().strip()):
        return named
    complete = sorted(path for path in checkpoints.glob("step-*") if _is_complete(path))
    return complete[-1] if complete else None


def _is_complete(path: Path) -> bool:
    return (path / MARKER).is_file()


def save_checkpoint(
    folder: Path, engine: Engine, state: RunState, write_weights: WriteWeights, keep_last: int = 2
) -> Path:
    """Write a checkpoint and make it ``last``; all ranks call it.

    Nothing that was there is touched before the new one is complete: a kill or a full disk at any moment leaves the
    older checkpoint and ``last`` as they were.

    Raises:
        UserError: the disk is full or not writable.
    """
    checkpoints = folder / "checkpoints"
    final = checkpoints / f"step-{state.step:06d}"
    partial = checkpoints / f".step-{state.step:06d}.partial"
    tensors = engine.trained_tensors()
    try:
        if engine.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "engine").mkdir(parents=True)
        engine.barrier()
        engine.save(partial / "engine")
        save_random_state(partial / "engine" / f"random-rank{engine.rank}.safetensors")
        if engine.rank == 0:
            write_weights(partial, tensors)
            state.write(partial / "state.json")
        engine.barrier()
        if engine.rank == 0:
            _publish(partial, final, checkpoints)
            _prune(checkpoints, final, keep_last)
        engine.barrier()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(_save_failure(error, final, folder)) from error
    return final


def load_checkpoint(checkpoint: Path, engine: Engine) -> RunState:
    """Restore optimizer, masters, weights that train and this rank's random numbers; return the position."""
    engine.load(checkpoint / "engine")
    load_random_state(checkpoint / "engine" / f"random-rank{engine.rank}.safetensors")
    return RunState.read(checkpoint / "state.json")


def _publish(partial: Path, final: Path, checkpoints: Path) -> None:
    (partial / MARKER).write_text("")
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    write_atomically(checkpoints / "last", final.name + "\n")


def _prune(checkpoints: Path, newest: Path, keep_last: int) -> None:
    best = checkpoints / "best"
    kept = {newest.name, best.read_text().strip() if best.is_file() else ""}
    older = sorted(path for path in checkpoints.glob("step-*") if path.name not in kept)
    for path in older[: max(0, len(older) - (keep_last - 1))]:
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def save_random_state(path: Path) -> None:
    """Write torch's generators as tensors (data workers draw nothing: plan and order come from seeds)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    save_file(states, path)


def load_random_state(path: Path) -> None:
    """Restore what :func:`save_random_state` wrote."""
    if not path.is_file():
        raise UserError(f"{path} is missing: resume with the number of processes that wrote the checkpoint")
    states = load_file(path)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _save_failure(error: Exception, final: Path, folder: Path) -> str:
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    reason = "the disk is full" if is_full else str(error).splitlines()[0]
    previous = last_checkpoint(folder)
    kept = f"checkpoint {previous.name} is untouched" if previous else "there is no earlier checkpoint"
    return f"cannot save {final}: {reason}; {kept}. Free space and run the same command again"
