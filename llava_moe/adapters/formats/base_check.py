"""Which base an adapter was trained on: what its folder tells, held against the model at hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.errors import UserError

# Linears that read the residual stream, in which the rows of A are as long as it is wide.
_READS_RESIDUAL = re.compile(r"(?:^|\.)(?:q|k|v|qkv|gate|up|gate_up)_proj\.lora_A\.")
_UNITS = {"hidden_size": "hidden size", "num_hidden_layers": "layers"}


def refuse_other_base(folder: Path, trained_on: Mapping[str, Any], target_model: TargetModel) -> None:
    """Refuse another base by what both say of themselves, before shapes or names would."""
    here = target_model.describe()
    known = [key for key, value in here.items() if value is not None and trained_on.get(key) is not None]
    if any(trained_on[key] != here[key] for key in known if key != "name"):
        raise UserError(
            f"{folder} is an adapter of another base: it was trained on {_say(trained_on)}, this model is "
            f"{_say(here)}: load the base it was trained on"
        )


def recorded_base(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a folder of our own format says of its base."""
    recorded = settings.get("base")
    return recorded if isinstance(recorded, Mapping) else {}


def _say(base: Mapping[str, Any]) -> str:
    kinds = dict.fromkeys(_told(base[key]) for key in ("model_type", "text_model_type") if base.get(key))
    facts = [" with ".join(kinds)] if kinds else []
    facts += [f"{unit} {_told(base[key])}" for key, unit in _UNITS.items() if base.get(key) is not None]
    return " ".join(filter(None, (_told(base.get("name") or "a model"), f"({', '.join(facts)})" if facts else "")))


def _told(value: object) -> str:
    """A value as it is told: a file may hold one of any kind."""
    return value if isinstance(value, str) and value.isprintable() and len(value) < 200 else quote_value(value)


def base_of_peft(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], target_model: TargetModel
) -> dict[str, Any]:
    """What a PEFT folder tells of its base: a name, and the sizes that its tensors were made for."""
    widths = {tensor.shape[-1] for name, tensor in tensors.items() if tensor.ndim == 2 and _READS_RESIDUAL.search(name)}
    num_layers = 1 + max((layer for layer in map(target_model.layer_of, tensors) if layer is not None), default=-1)
    return {
        "name": settings.get("base_model_name_or_path"),
        "hidden_size": widths.pop() if len(widths) == 1 else None,
        # Fewer layers than the model has are a choice.
        "num_hidden_layers": num_layers if num_layers > (target_model.describe()["num_hidden_layers"] or 0) else None,
    }


def refuse_outside(folder: Path, names: Iterable[str], target_model: TargetModel) -> None:
    """Refuse a PEFT folder that adapts parts of this model beside its language model, whatever the rest fits.

    Args:
        names: of its tensors, without the root.
    """
    there = dict(target_model.model.named_modules())
    inside = f"{target_model.language_model_name}."
    modules = dict.fromkeys(full_name(name, target_model) for name in names if ".lora_" in name)
    outside = sorted(name for name in modules if name in there and target_model.language_model_name)
    outside = [name for name in outside if not name.startswith(inside)]
    if outside:
        part = outside[0].removeprefix(target_model.root).partition(".")[0]
        raise UserError(
            f"{folder} adapts {len(outside)} layers, such as {outside[0]}, outside this model's language model, which "
            f"alone is adapted here: train it again with targets that leave out {part}, or merge it with PEFT first"
        )


def full_name(name: str, target_model: TargetModel) -> str:
    """The module that a tensor named without the root adapts, with it where the model has it there."""
    module = name.partition(".lora_")[0]
    rooted = f"{target_model.root}{module}"
    return module if _has(target_model.model, module) and not _has(target_model.model, rooted) else rooted


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def refuse_strange_modules(
    folder: Path, trained_on: Mapping[str, Any], names: Iterable[str], target_model: TargetModel
) -> None:
    """Refuse a PEFT folder that adapts what is not a linear of this model's language model."""
    modules = [name.partition(".lora_")[0] for name in names if ".lora_" in name]
    strange = sorted({full_name(module, target_model) for module in modules} - target_model.linears.keys())
    if strange:
        there = dict(target_model.model.named_modules())
        what = "outside this model's language model, which alone is adapted here"
        if strange[0] not in there:
            what = (
                f"that this model, {_say(target_model.describe())}, does not have: it was trained on {_say(trained_on)}"
            )
        raise UserError(f"{folder} adapts {len(strange)} layers, such as {strange[0]}, {what}")
