"""Modules that a PEFT folder holds whole (``modules_to_save``): found, held against the model, and put into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.formats.peft_names import names_here
from llava_moe.errors import UserError

MOST_MODULES = 100


def saved_modules(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """What a folder's ``modules_to_save`` puts in the place of the base's own, by the parameters' full names.

    A module is meant where its full name ends with one of them, as in PEFT.

    Args:
        tensors: all tensors of the folder, as PEFT names them.
        model: the base model, bare.

    Raises:
        UserError: a tensor that is none of these modules', one of another shape, or a module that is not whole.
    """
    modules = _names_of(folder, settings["modules_to_save"])
    parameters = dict(model.named_parameters(remove_duplicate=False))
    here = names_here([name for name in tensors if ".lora_" not in name], model)
    saved = {today: tensors[name] for name, today in here.items()}
    wanted = {name for name in parameters if _is_within(name, modules)}
    told = ", ".join(modules[:3])
    if strange := sorted(saved.keys() - wanted):
        raise UserError(
            f"{folder} holds {strange[0]}, which is no parameter of this model's {told}: load the base that it was "
            "trained on"
        )
    missing = sorted(wanted - saved.keys())
    if missing or not saved:
        lacking = missing[0] if missing else "all of them"
        raise UserError(f"{folder} names modules_to_save {told} and lacks {lacking}: write it again with PEFT")
    for name, tensor in saved.items():
        if tensor.shape != parameters[name].shape:
            raise UserError(
                f"{folder}: {name} is {tuple(tensor.shape)}, this model's is {tuple(parameters[name].shape)}: load the "
                "base it was trained on"
            )
    return saved


def put_in_place(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters of these full names.

    Where a parameter is tied to another (the head to the embeddings), the one that is named gets its own, and the
    other keeps what it has: PEFT trained a copy of the one module.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    uses = Counter(id(parameter) for parameter in parameters.values())
    for name, tensor in saved.items():
        parameter = parameters[name]
        if uses[id(parameter)] == 1:
            with torch.no_grad():
                parameter.copy_(tensor)
            continue
        owner, _, leaf = name.rpartition(".")
        own = nn.Parameter(tensor.to(parameter, copy=True), requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(owner), leaf, own)
        _forget_tying(model, name)


def _forget_tying(model: Any, name: str) -> None:
    """Keep transformers from tying again when the model is saved, loaded or resized."""
    config: Any = getattr(model, "config", None)
    parts = (config, config.get_text_config() if hasattr(config, "get_text_config") else config)
    for part in parts:
        if getattr(part, "tie_word_embeddings", False):
            part.tie_word_embeddings = False
    tied = getattr(model, "all_tied_weights_keys", None)
    if isinstance(tied, dict):
        model.all_tied_weights_keys = {one: other for one, other in tied.items() if name not in (one, other)}


def _names_of(folder: Path, modules: Any) -> Sequence[str]:
    is_list = isinstance(modules, list) and all(isinstance(name, str) and name for name in modules)
    if not is_list or len(modules) > MOST_MODULES:
        raise UserError(
            f"{folder}: modules_to_save={quote_value(modules)} must list names of modules: write it again with PEFT"
        )
    return modules


def _is_within(name: str, modules: Sequence[str]) -> bool:
    """Whether the parameter stands in a module whose full name ends with one of ``modules``."""
    ends = tuple(modules)
    parts = name.split(".")[:-1]
    return any(".".join(parts[: depth + 1]).endswith(ends) for depth in range(len(parts)))
