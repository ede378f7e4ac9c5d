"""Which settings of a PEFT LoRA are read, which change nothing, and which must be off: all others are refused.

A list of what is known to be harmless, not of what is known to be harmful: PEFT adds features with each release, and a
folder that uses one which is not read here must not load as if it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.adapters.core.quote_value import quote_value

READ = frozenset(
    ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "bias")
)
# Where a LoRA came from, how it was started or trained. What it computes does not depend on them.
WITHOUT_EFFECT = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "loftq_config",
        "lora_dtype",
        "lora_ga_config",
        "lorap_emb_lr",
        "lorap_lr_ratio",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    )
)
# Starts that leave the base weights alone; the others (pissa, olora, corda, loftq, lora_ga) change them.
HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def features_in_use(settings: Mapping[str, Any]) -> list[str]:
    """What changes a LoRA's arithmetic or carries more than its A and B, as ``use_dora=True``, by name.

    A setting that is not known at all counts as off where it is null, false or empty.
    """
    features = []
    for name in sorted(settings):
        value = settings[name]
        if name == "init_lora_weights":
            is_harmless = not isinstance(value, int | float) or isinstance(value, bool)
            is_harmless = is_harmless and value in HARMLESS_STARTS
        elif name == "bias":
            is_harmless = value == "none"
        else:
            is_harmless = name in READ or name in WITHOUT_EFFECT or _is_off(value)
        if not is_harmless:
            features.append(f"{name if name.isidentifier() else quote_value(name)}={quote_value(value)}")
    return features


def _is_off(value: Any) -> bool:
    # Not 0: as an index it is the first layer or token.
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)
