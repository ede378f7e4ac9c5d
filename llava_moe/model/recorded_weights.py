"""Whether the weights that a run stands on are still those that it was trained on, by what its folder recorded.

A run keeps what it trained; its base, and what ``init_from`` gave it, lie elsewhere and are found by name. Under that
name other weights may lie by now, or in the folder that a command is called from: of the same shapes they would load
without a word. ``environment.json`` therefore holds a fingerprint of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_moe.errors import UserError
from llava_moe.model.fingerprint import layers_fingerprint, projector_fingerprint
from llava_moe.own_files import read_object

RECORD = "environment.json"
PARTS = {"projector": "projector.safetensors", "base": "model/base.safetensors"}
"""What a start gives to a model, and the file by which a checkpoint replaces it."""


def fingerprint_start(model: nn.Module) -> dict[str, str]:
    """Fingerprints of a bare model's projector and base parts as ``init_from`` left them; none of a float16 model."""
    if next(model.parameters()).dtype == torch.float16:
        return {}  # it rounds otherwise than bfloat16
    return {"projector": projector_fingerprint(model), "base": layers_fingerprint(model)}


def refuse_other_base(run: Path, fingerprint: str) -> None:
    """Refuse a base that is another than the one that a run was trained on.

    Args:
        fingerprint: of the base, opened in the precision that the run trained in: rows for new tokens are the mean of
            the others, which rounds otherwise in another.

    Raises:
        UserError: it is another, or the record is damaged.
    """
    before = _recorded(run).get("base_model")
    # Where nothing was recorded there is nothing to hold it against.
    if before and fingerprint and before != fingerprint:
        raise UserError(
            f"{run}: its base (model.architecture of its config.yaml) holds other weights than those it was "
            "trained on: put that base back, or train again"
        )


def refuse_other_start(checkpoint: Path, found: Path, model: nn.Module) -> None:
    """Refuse what ``init_from`` leads to where it is not what a run was started from.

    Parts that the run's own checkpoint holds do not count: they are replaced.

    Args:
        checkpoint: of the run.
        found: the checkpoint that its ``init_from`` leads to; ``model`` holds its weights.

    Raises:
        UserError: it is another, or the record is damaged.
    """
    run = checkpoint.parent.parent
    before: Mapping[str, str] = _recorded(run).get("start") or {}
    now = fingerprint_start(model) if before else {}
    for part in now:
        if before.get(part, now[part]) != now[part] and not (checkpoint / PARTS[part]).is_file():
            raise UserError(
                f"{run} was started from another {part} than {found} holds: call the command from the folder where it "
                "was trained, or put the run that init_from names back beside it"
            )


def refuse_changed_start(checkpoint: Path, start: Mapping[str, str]) -> None:
    """Refuse to resume a run where what ``init_from`` gives is not what it was started from.

    Args:
        checkpoint: of the run, whose own parts do not count: they are replaced.
        start: fingerprints of what was given now.

    Raises:
        UserError: it is another, or the record is damaged.
    """
    run = checkpoint.parent.parent
    before: Mapping[str, str] = _recorded(run).get("start") or {}
    for part, now in start.items():
        if before.get(part, now) != now and not (checkpoint / PARTS[part]).is_file():
            raise UserError(
                f"{run} was started from another {part} than init_from holds by now: put that run back as it was, or "
                "choose another folder with out="
            )


def _recorded(run: Path) -> dict[str, Any]:
    path = run / RECORD
    if not path.is_file():
        return {}
    return read_object(path, "put it back, or delete it to go without", {"base_model?": str, "start?": {str: str}})
