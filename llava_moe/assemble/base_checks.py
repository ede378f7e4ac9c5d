"""Refusals of a base that is another than the one a run was trained on."""

from __future__ import annotations

from pathlib import Path

from llava_moe.assemble.spec import DTYPES, read_config
from llava_moe.model.recorded_weights import BaseWeights, refuse_other_base


def refuse_strange_base(run: Path, here: BaseWeights, *, is_start: bool = False) -> tuple[str, ...]:
    """Refuse to open a run on another base than the one that it was trained on.

    Args:
        is_start: it is what another is started from, or an expert: the base was named by the other.

    Returns:
        Lines to tell of what cannot be decided.

    Raises:
        UserError: naming both bases.
    """
    trained_in = DTYPES.get(read_config(run).train.dtype, here.dtype)
    note = refuse_other_base(run, trained_in, here, is_start=is_start)
    return (note,) if note else ()
