"""The projector that a PEFT folder carries beside its LoRA (``modules_to_save``), as ``export to=peft`` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_moe.adapters.formats.native_format import read_settings, read_tensors

PROJECTOR = "multi_modal_projector"


def carries_projector(settings: Mapping[str, Any]) -> bool:
    """Whether a PEFT folder's ``modules_to_save`` names the projector and nothing else."""
    modules = settings.get("modules_to_save")
    if "peft_type" not in settings or not isinstance(modules, list) or not modules:
        return False
    return all(isinstance(name, str) and name.rpartition(".")[2] == PROJECTOR for name in modules)


def lora_alone(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a PEFT folder without the projector that it carries; others stay as they are."""
    if not carries_projector(settings):
        return dict(settings), dict(tensors)
    return {**settings, "modules_to_save": None}, {n: t for n, t in tensors.items() if not _is_projectors(n)}


def read_projector(folder: Path) -> dict[str, Tensor]:
    """The projector's tensors that an adapter's folder carries, by their names in the model; empty without any.

    Raises:
        UserError: the folder cannot be read.
    """
    if not carries_projector(read_settings(folder)):
        return {}
    tensors = {name: tensor for name, tensor in read_tensors(folder).items() if _is_projectors(name)}
    return {f"model.{PROJECTOR}.{name.rpartition(f'{PROJECTOR}.')[2]}": tensor for name, tensor in tensors.items()}


def _is_projectors(name: str) -> bool:
    return f".{PROJECTOR}." in name and ".lora_" not in name
