"""Whether the disk of a run's folder holds a checkpoint, told before the first step and not at the first save."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.model import ParameterGroup

# The engine's fp32 master and AdamW's two moments; weights come on top, in the dtype of their file.
_BYTES_A_PARAMETER = 12


def checkpoint_bytes(groups: Sequence[ParameterGroup]) -> int:
    """Bytes of masters and moments of what trains; they are most of a checkpoint."""
    return _BYTES_A_PARAMETER * sum(group.num_parameters for group in groups)


def refuse_small_disk(folder: Path, groups: Sequence[ParameterGroup]) -> None:
    """Raise ``UserError`` where not even one checkpoint of what trains would fit."""
    needed = checkpoint_bytes(groups)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: its disk has {free / 1e9:.2f} GB free, and a checkpoint of what trains takes more than "
            f"{needed / 1e9:.2f} GB: free space, or choose a folder on another disk with out="
        )
