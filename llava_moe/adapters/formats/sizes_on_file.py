"""Sizes that an adapter's settings claim, held against its tensors before memory is taken for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_moe.adapters.formats.native_format import CONFIG_FILE
from llava_moe.errors import UserError

# Where a folder has no such tensor, what is missing is named when it is put on; sizes up to this cost little.
COMMON = 64
_MEMBER = re.compile(r"\.(?:experts|factors)\.(\d{1,9})\.")


def refuse_sizes(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a rank or a number of experts that no tensor of the folder has.

    Args:
        settings: of known types; ``r``, ``num_experts``, ``num_factors``, and ``experts`` with an ``r`` each.

    Raises:
        UserError: naming the setting.
    """
    counts = [int(found[1]) + 1 for name in tensors if (found := _MEMBER.search(name))]
    ranks = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith("lora_A.weight") and tensor.ndim]
    # A number in a name is a claim too: a folder has no more members than tensors.
    most_members = min(max(counts), len(tensors)) if counts else COMMON
    most_rank = max(ranks, default=COMMON)
    num_factors = settings.get("num_factors")
    # A mixture of factors chooses r of them; everywhere else r is a tensor's.
    claims = {"r": (settings.get("r"), most_rank if num_factors is None else most_members)}
    claims["num_factors"] = (num_factors, most_members)
    for index, number in enumerate(_listed(settings.get("num_experts"))):
        claims[f"num_experts[{index}]"] = (number, most_members)
    for index, expert in enumerate(_listed(settings.get("experts"))):
        claims[f"experts[{index}].r"] = (expert.get("r") if isinstance(expert, Mapping) else None, most_rank)
    for name, (claimed, most) in claims.items():
        if isinstance(claimed, int) and claimed > max(most, 1):
            raise UserError(
                f"{folder / CONFIG_FILE}: {name.removesuffix('[0]') if name == 'num_experts[0]' else name} is "
                f"{_number(claimed)}, the tensors beside it have at most {most}: the files are of two adapters"
            )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(value: int) -> str:
    return str(value) if abs(value) < 10**18 else "beyond any size"
