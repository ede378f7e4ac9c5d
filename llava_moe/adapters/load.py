"""Reading an adapter's folder back onto a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llava_moe.adapters.adapter import Attached, Method, attach
from llava_moe.adapters.body import Body
from llava_moe.adapters.llava_mole import LlavaMole
from llava_moe.adapters.lora import Lora
from llava_moe.adapters.mixlora import MixLora
from llava_moe.adapters.no_adapter import NoAdapter
from llava_moe.adapters.own_format import CONFIG_FILE, config_from, read_settings, read_tensors
from llava_moe.adapters.peft_format import from_peft_names, read_peft_settings
from llava_moe.errors import UserError

# Methods that write our own format. Plain LoRA is PEFT's.
METHODS: tuple[type[Method], ...] = (LlavaMole, MixLora, NoAdapter)

# Linears that read the residual stream, in which the rows of A are as long as it is wide.
_READS_RESIDUAL = re.compile(r"(?:^|\.)(?:q|k|v|qkv|gate|up|gate_up)_proj\.lora_A\.")
_UNITS = {"hidden_size": "hidden size", "num_hidden_layers": "layers"}


def load_adapter(model: nn.Module, folder: str | Path) -> Attached:
    """Attach the adapter that a folder holds, written by :meth:`Attached.save` or, for plain LoRA, by PEFT.

    Args:
        model: the base model that the adapter was trained on, bare.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        UserError: the folder is not an adapter's, holds a method or PEFT feature that is not known here, was trained on
            another base, or its tensors are not exactly those that the model asks for, or not finite. The model is then
            left bare.
    """
    folder = Path(folder)
    settings, tensors, body = read_settings(folder), read_tensors(folder), Body.of(model)
    try:
        if "peft_type" in settings:
            tensors = from_peft_names(tensors, body)
            trained_on = _base_of_peft(settings, tensors, body)
            _check_base(folder, trained_on, body)
            _refuse_strange_modules(folder, trained_on, tensors, body)
            config: Method = Lora(**read_peft_settings(folder, body, settings))
        else:
            kind = _method(settings.get("method"), folder)
            _check_base(folder, _as_mapping(settings.get("base")), body)
            config = config_from(kind, settings, folder)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG_FILE} has a value that is none of its setting's ({error})") from error
    try:
        attached = attach(model, config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    try:
        attached.load_state_dict(tensors)
    except UserError as error:
        attached.detach()
        raise UserError(f"{folder}: {error}") from error
    return attached


def _check_base(folder: Path, trained_on: Mapping[str, Any], body: Body) -> None:
    """Refuse another base by what both say of themselves, before shapes or names would."""
    here = body.describe()
    known = [key for key, value in here.items() if value is not None and trained_on.get(key) is not None]
    if any(trained_on[key] != here[key] for key in known if key != "name"):
        raise UserError(
            f"{folder} is an adapter of another base: it was trained on {_say(trained_on)}, this model is "
            f"{_say(here)}: load the base it was trained on"
        )


def _as_mapping(recorded: object) -> Mapping[str, Any]:
    return recorded if isinstance(recorded, Mapping) else {}


def _say(base: Mapping[str, Any]) -> str:
    kinds = dict.fromkeys(base[key] for key in ("model_type", "text_model_type") if base.get(key))
    facts = [" with ".join(kinds)] if kinds else []
    facts += [f"{unit} {base[key]}" for key, unit in _UNITS.items() if base.get(key) is not None]
    return " ".join(filter(None, (base.get("name") or "a model", f"({', '.join(facts)})" if facts else "")))


def _base_of_peft(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], body: Body) -> dict[str, Any]:
    """What a PEFT folder tells of its base: a name, and the sizes that its tensors were made for."""
    widths = {tensor.shape[-1] for name, tensor in tensors.items() if tensor.ndim == 2 and _READS_RESIDUAL.search(name)}
    num_layers = 1 + max((layer for layer in map(body.layer_of, tensors) if layer is not None), default=-1)
    return {
        "name": settings.get("base_model_name_or_path"),
        "hidden_size": widths.pop() if len(widths) == 1 else None,
        # Fewer layers than the model has are a choice.
        "num_hidden_layers": num_layers if num_layers > (body.describe()["num_hidden_layers"] or 0) else None,
    }


def _refuse_strange_modules(folder: Path, trained_on: Mapping[str, Any], names: Iterable[str], body: Body) -> None:
    """Refuse a PEFT folder that adapts what is not a linear of this model's language model."""
    modules = [name.partition(".lora_")[0] for name in names if ".lora_" in name]
    strange = sorted({f"{body.root}{module}" for module in modules} - body.linears.keys())
    if strange:
        there = dict(body.model.named_modules())
        what = "outside this model's language model, which alone is adapted here"
        if strange[0] not in there:
            what = f"that this model, {_say(body.describe())}, does not have: it was trained on {_say(trained_on)}"
        raise UserError(f"{folder} adapts {len(strange)} layers, such as {strange[0]}, {what}")


def _method(name: object, folder: Path) -> type[Method]:
    for method in METHODS:
        if method.method == name:
            return method
    known = ", ".join(method.method for method in METHODS)
    raise UserError(f"{folder} holds an adapter of method {name!r}; known are {known} and PEFT's LORA")
