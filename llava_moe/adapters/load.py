"""Reading an adapter's folder back onto a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llava_moe.adapters.core.attached import Attached, attach
from llava_moe.adapters.core.method import Method
from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.base_check import recorded_base, refuse_other_base
from llava_moe.adapters.formats.native_format import config_from, named, read_settings, read_tensors
from llava_moe.adapters.formats.projector import carries_projector
from llava_moe.adapters.formats.saved_modules import put_in_place, saved_modules
from llava_moe.adapters.formats.sizes_on_file import refuse_sizes
from llava_moe.adapters.methods.lora import Lora
from llava_moe.adapters.methods.peft_lora import read_lora
from llava_moe.adapters.registry import METHODS
from llava_moe.errors import UserError


def load_adapter(model: nn.Module, folder: str | Path) -> Attached:
    """Attach the adapter that a folder holds, written by :meth:`Attached.save` or, for plain LoRA, by PEFT.

    A projector that a PEFT folder carries (``modules_to_save``) takes the place of the model's own, as in PEFT, and
    stays there when the adapter is taken off.

    Args:
        model: the base model that the adapter was trained on, bare.
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        UserError: the folder is not an adapter's, holds a method or PEFT feature that is not known here, was trained on
            another base, or its tensors are not exactly those that the model asks for, or not finite. The model is then
            left bare.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if carries_projector(settings):
        return load_adapter_with_modules(model, folder)
    return _load(model, folder, settings, read_tensors(folder), TargetModel.of(model))


def load_adapter_with_modules(model: nn.Module, folder: str | Path) -> Attached:
    """As :func:`load_adapter`; what a PEFT folder holds in ``modules_to_save`` takes the place of the base's own.

    Those modules stay changed when the adapter is taken off.

    Raises:
        UserError: as :func:`load_adapter`, or the modules are not whole, or not this model's. The model is then bare
            and as it was.
    """
    folder = Path(folder)
    settings, tensors, target_model = read_settings(folder), read_tensors(folder), TargetModel.of(model)
    if "peft_type" not in settings or not settings.get("modules_to_save"):
        return _load(model, folder, settings, tensors, target_model)
    lora = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    settings_of_lora = settings | {"modules_to_save": None}
    # The sizes of the base are told better by the LoRA than by the modules: it is read first.
    _read_lora(folder, settings_of_lora, lora, target_model)
    saved = saved_modules(folder, settings, tensors, model)
    attached = _load(model, folder, settings_of_lora, lora, target_model)
    put_in_place(model, saved)
    return attached


def _load(
    model: nn.Module, folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor], target_model: TargetModel
) -> Attached:
    config: Method
    if "peft_type" in settings:
        config, tensors = _read_lora(folder, settings, tensors, target_model)
    else:
        config = _read_own(folder, settings, tensors, target_model)
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


def _read_lora(
    folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor], target_model: TargetModel
) -> tuple[Lora, dict[str, Tensor]]:
    with named(folder):
        lora, ours = read_lora(folder, settings, tensors, target_model)
        refuse_sizes(folder, settings, ours)
    return lora, ours


def _read_own(folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor], target_model: TargetModel) -> Method:
    kind = _method(settings.get("method"), folder)
    refuse_other_base(folder, recorded_base(settings), target_model)
    with named(folder):
        config = config_from(kind, settings, folder)
        refuse_sizes(folder, settings, tensors)
    return config


def _method(name: object, folder: Path) -> type[Method]:
    # A plain LoRA has PEFT's format, never our own.
    known = [one for one in METHODS if one != Lora.method]
    if isinstance(name, str) and name in known:
        return METHODS[name]
    raise UserError(
        f"{folder} holds an adapter of method {quote_value(name)}; known are {', '.join(known)} and PEFT's LORA"
    )
