"""PEFT's LoRA folder, written and read without PEFT (format of peft 0.10 to 0.21)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_moe.adapters.body import Body
from llava_moe.adapters.own_format import CONFIG_FILE, write_settings, write_tensors
from llava_moe.errors import UserError

PREFIX = "base_model.model."

# What changes a LoRA's arithmetic or carries more than its A and B. Each is absent, null, false or empty in plain LoRA.
UNSUPPORTED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
# Starts that leave the base weights alone; the others (pissa, olora, corda, loftq, lora_ga) change them.
HARMLESS_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def write_peft_folder(
    folder: Path,
    body: Body,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    saved: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a folder that ``PeftModel.from_pretrained`` reads.

    Args:
        folder: an existing folder.
        body: the model that the adapter hangs on.
        settings: ``r, lora_alpha, lora_dropout, target_modules, use_rslora``, and any others of PEFT's.
        tensors: ``<module>.lora_A.weight`` and ``<module>.lora_B.weight``, named without the root.
        saved: tensors of modules that PEFT puts in the place of the base's own (``modules_to_save``), by full name.
    """
    saved = saved or {}
    modules = sorted({body.short(name).partition(".")[0] for name in saved})
    write_settings(
        folder,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": getattr(body.model, "name_or_path", None) or None,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "modules_to_save": modules or None,
            "use_dora": False,
            **settings,
        },
    )
    named = {f"{PREFIX}{body.root}{name}": tensor for name, tensor in tensors.items()}
    write_tensors(folder, named | {f"{PREFIX}{name}": tensor for name, tensor in saved.items()})


def read_peft_settings(folder: Path, body: Body, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our :class:`~llava_moe.adapters.Lora` from a PEFT configuration.

    ``exclude_modules`` is honoured by naming what is left.

    Raises:
        UserError: it is not a LoRA, or a LoRA with a feature that is not read here; all such features are named.
    """
    plain = plain_lora_settings(folder, settings)
    if excluded := settings.get("exclude_modules"):
        plain["target_modules"] = body.without(settings["target_modules"], excluded)
    return plain


def plain_lora_settings(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """As :func:`read_peft_settings`, where no model is at hand and nothing is excluded."""
    path = folder / CONFIG_FILE
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{path} is a PEFT adapter of type {settings.get('peft_type')}; only LORA is read")
    features = [name for name in UNSUPPORTED if settings.get(name)]
    if settings.get("bias", "none") != "none":
        features.append("bias")
    if settings.get("init_lora_weights", True) not in HARMLESS_STARTS:
        features.append("init_lora_weights")
    if features:
        named = ", ".join(f"{name}={settings[name]!r}" for name in features)
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


def from_peft_names(tensors: Mapping[str, Tensor], body: Body) -> dict[str, Tensor]:
    """PEFT's tensor names as ours; a name that is not PEFT's is kept, to be refused as unexpected."""
    return {body.short(name.removeprefix(PREFIX)): tensor for name, tensor in tensors.items()}


def saved_modules(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What a folder's ``modules_to_save`` puts in the place of the base's own, by the parameters' full names.

    Args:
        tensors: all tensors of the folder, as PEFT names them.
        parameters: the base model's own.

    Raises:
        UserError: a tensor that is none of these modules', one of another shape, or a module that is not whole.
    """
    modules = [str(name) for name in settings["modules_to_save"]]
    saved = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if ".lora_" not in name}
    wanted = {name for name in parameters if any(f".{module}." in f".{name}" for module in modules)}
    strange = sorted(saved.keys() - wanted)
    if strange:
        raise UserError(
            f"{folder} holds {strange[0]}, which is no parameter of this model's {', '.join(modules)}: load the base "
            "that it was trained on"
        )
    missing = sorted(wanted - saved.keys())
    if missing or not saved:
        raise UserError(
            f"{folder} names modules_to_save {', '.join(modules)} and lacks {missing[0] if missing else 'all of them'}"
            ": write it again with PEFT"
        )
    for name, tensor in saved.items():
        if tensor.shape != parameters[name].shape:
            raise UserError(
                f"{folder}: {name} is {tuple(tensor.shape)}, this model's is {tuple(parameters[name].shape)}: load the "
                "base it was trained on"
            )
    return saved
