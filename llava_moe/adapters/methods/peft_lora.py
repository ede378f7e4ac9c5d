"""Reading a PEFT LoRA's folder for a model: its settings, and its tensors under our names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_moe.adapters.core.field_types import first_misfit
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.base_check import (
    base_of_peft,
    refuse_other_base,
    refuse_outside,
    refuse_strange_modules,
)
from llava_moe.adapters.formats.native_format import CONFIG_FILE
from llava_moe.adapters.formats.peft_format import from_peft_names, plain_lora_settings, read_peft_settings
from llava_moe.adapters.formats.peft_names import PREFIX
from llava_moe.adapters.methods.lora import Lora
from llava_moe.errors import UserError


def read_lora(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], target_model: TargetModel
) -> tuple[Lora, dict[str, Tensor]]:
    """The LoRA that a PEFT folder describes, and its tensors as :meth:`Attached.state_dict` names them.

    Whether these are all that the model asks for is seen where they are put on.

    Raises:
        UserError: a feature that is not read, a value that cannot be, another base, or layers not adapted here.
    """
    named = from_peft_names(tensors, target_model)
    plain_lora_settings(folder, settings)
    refuse_outside(folder, named, target_model)
    trained_on = base_of_peft(settings, named, target_model)
    refuse_other_base(folder, trained_on, target_model)
    refuse_strange_modules(folder, trained_on, named, target_model)
    is_renamed = not named.keys() <= {target_model.short(name.removeprefix(PREFIX)) for name in tensors}
    modules = {f"{target_model.root}{name.partition('.lora_')[0]}" for name in named if ".lora_" in name}
    values = read_peft_settings(folder, target_model, settings, modules if is_renamed else ())
    if misfit := first_misfit(Lora, values):
        raise UserError(f"{folder / CONFIG_FILE}: {misfit}; write it again with PEFT")
    return Lora(**values), named
