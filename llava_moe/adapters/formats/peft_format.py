"""PEFT's LoRA folder, written and read without PEFT (format of peft 0.10 to 0.21)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.hub_name import hub_id
from llava_moe.adapters.formats.native_format import CONFIG_FILE, write_settings, write_tensors
from llava_moe.adapters.formats.peft_keys import features_in_use
from llava_moe.adapters.formats.peft_names import PREFIX, chosen_by_any_name, names_here
from llava_moe.errors import UserError

MOST_NAMED = 5


def write_peft_folder(
    folder: Path,
    target_model: TargetModel,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    saved: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a folder that ``PeftModel.from_pretrained`` reads.

    Args:
        folder: an existing folder.
        target_model: the model that the adapter hangs on.
        settings: ``r, lora_alpha, lora_dropout, target_modules, use_rslora``, and any others of PEFT's.
        tensors: ``<module>.lora_A.weight`` and ``<module>.lora_B.weight``, named without the root.
        saved: tensors of modules that PEFT puts in the place of the base's own (``modules_to_save``), by full name.
    """
    saved = saved or {}
    modules = sorted({target_model.short(name).partition(".")[0] for name in saved})
    write_settings(
        folder,
        {
            "peft_type": "LORA",
            # AutoPeftModel takes the class of the base from auto_mapping, and only where there is no task_type.
            "task_type": None,
            "auto_mapping": _auto_mapping(target_model),
            "base_model_name_or_path": hub_id(getattr(target_model.model, "name_or_path", None)),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "modules_to_save": modules or None,
            "use_dora": False,
            **settings,
        },
    )
    named = {f"{PREFIX}{target_model.root}{name}": tensor for name, tensor in tensors.items()}
    write_tensors(folder, named | {f"{PREFIX}{name}": tensor for name, tensor in saved.items()})


def _auto_mapping(target_model: TargetModel) -> dict[str, str]:
    kind = type(target_model.model)
    package = kind.__module__.partition(".")[0]
    return {
        "base_model_class": kind.__name__,
        "parent_library": package if package == "transformers" else kind.__module__,
    }


def read_peft_settings(
    folder: Path, target_model: TargetModel, settings: Mapping[str, Any], modules: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of our :class:`~llava_moe.adapters.Lora` from a PEFT configuration.

    ``exclude_modules`` is honoured by naming what is left, and so are targets written for names that an earlier
    transformers gave.

    Args:
        modules: the linears that the folder's tensors adapt, by their full names in the model, where the file has
            earlier names for them.

    Raises:
        UserError: it is not a LoRA, or a LoRA with a feature that is not read here; all such features are named.
    """
    plain = plain_lora_settings(folder, settings)
    excluded = settings.get("exclude_modules") or ()
    if modules and (named := chosen_by_any_name(target_model, settings["target_modules"], excluded, modules)):
        plain["target_modules"] = named
    elif excluded:
        plain["target_modules"] = target_model.without(settings["target_modules"], excluded)
    return plain


def plain_lora_settings(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """As :func:`read_peft_settings`, where no model is at hand and nothing is excluded."""
    path = folder / CONFIG_FILE
    kind = settings.get("peft_type")
    if kind != "LORA":
        told = kind if isinstance(kind, str) and kind.isidentifier() else quote_value(kind)
        raise UserError(f"{path} is a PEFT adapter of type {told}; only LORA is read")
    if features := features_in_use(settings):
        named = ", ".join(features[:MOST_NAMED]) + (" and more" if len(features) > MOST_NAMED else "")
        raise UserError(f"{path} uses PEFT features that are not read here: {named}; merge it with PEFT first")
    absent = [name for name in ("r", "lora_alpha", "target_modules") if settings.get(name) is None]
    if absent:
        raise UserError(f"{path} lacks {', '.join(absent)}; write it again with PEFT")
    return {
        "r": settings["r"],
        "lora_alpha": settings["lora_alpha"],
        "lora_dropout": settings.get("lora_dropout", 0.0),
        "target_modules": settings["target_modules"],
        "use_rslora": settings.get("use_rslora", False),
    }


def from_peft_names(tensors: Mapping[str, Tensor], target_model: TargetModel) -> dict[str, Tensor]:
    """PEFT's tensor names as ours; a name that is not PEFT's is kept, to be refused as unexpected."""
    return {target_model.short(here): tensors[name] for name, here in names_here(tensors, target_model.model).items()}
