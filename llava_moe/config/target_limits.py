"""What the fields of each adapter and of each kind of base model may be: judged before torch is loaded.

The classes themselves hold a caller of the library to the same bounds; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.config.limits import (
    FLAG,
    Either,
    Fields,
    FilePath,
    Limit,
    ListOf,
    OneOf,
    OrNull,
    Real,
    Text,
    Whole,
    check_settings,
)

_LINEARS = Either((Text(), ListOf(Text())))
_ALPHA = Real(0, 1_000_000, open_below=True)
_DROPOUT = Real(0, 1, open_above=True)
LORA: dict[str, Limit] = {
    "r": Whole(1),
    "lora_alpha": _ALPHA,
    "lora_dropout": _DROPOUT,
    "target_modules": _LINEARS,
    "use_rslora": FLAG,
}
LLAVA_MOLE: dict[str, Limit] = LORA | {
    "num_experts": Either((Whole(1), ListOf(Whole(1), shortest=1))),
    "router": OneOf(("straight_through", "hard", "gate", "dense")),
    "load_balance_coef": OrNull(Real(0)),
    "load_balance": OneOf(("per_layer", "pooled")),
    "expert_modules": _LINEARS,
    "expert_layers": OrNull(ListOf(Whole(0))),
    "shared_A": FLAG,
    "dispatch": OneOf(("auto", "masked", "sorted")),
}
MIXLORA: dict[str, Limit] = {
    "num_factors": Whole(1),
    "r": Whole(1),
    "lora_alpha": OrNull(_ALPHA),
    "lora_dropout": _DROPOUT,
    "conditional": FLAG,
    "router_grad": OneOf(("straight_through", "none")),
    "routing": OneOf(("instance", "task", "token", "random")),
    "target_modules": _LINEARS,
    "as_released": FLAG,
}
MOLE: dict[str, Limit] = {
    "experts": Either((FilePath(), ListOf(FilePath(), shortest=1))),
    "granularity": OneOf(("matrix", "layer", "block", "network")),
    "temperature": Real(0, open_below=True),
    "balance_coef": Real(0),
    "mask": OrNull(ListOf(OneOf((0, 1)))),
    "exact": FLAG,
}
FROM_PARTS: dict[str, Limit] = {
    "vision_tower": Text(),
    "language_model": Text(),
    "projector_output_std": OrNull(Real(0, open_below=True)),
}
FROM_CHECKPOINT: dict[str, Limit] = {"path": FilePath()}
FROM_SHAPE: dict[str, Limit] = {"tokenizer": Text(), "vision": Fields(), "text": Fields()}
TARGETS: dict[str, dict[str, Limit]] = {
    "llava_moe.adapters.Lora": LORA,
    "llava_moe.adapters.LlavaMole": LLAVA_MOLE,
    "llava_moe.adapters.MixLora": MIXLORA,
    "llava_moe.adapters.Mole": MOLE,
    "llava_moe.adapters.NoAdapter": {},
    "llava_moe.model.FromParts": FROM_PARTS,
    "llava_moe.model.FromCheckpoint": FROM_CHECKPOINT,
    "llava_moe.model.FromShape": FROM_SHAPE,
}
"""By what ``_target_`` says; a target that is not here is judged where it is built."""


def check_target(node: Mapping[str, Any], where: str) -> None:
    """Hold the fields of an adapter or a base model against their limits.

    Raises:
        UserError: naming the first that is not admitted, behind ``where`` and a dot.
    """
    target = node.get("_target_")
    check_settings(node, TARGETS.get(target, {}) if isinstance(target, str) else {}, f"{where}.")
