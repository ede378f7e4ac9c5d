"""The words of ``llava-moe analyze forgetting``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_moe.config.limits import FilePath, Limit, ListOf, OrNull, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.runs.named_files import know_benchmarks
from llava_moe.runs.out_folder import refuse_unwritable

LIMITS: dict[str, Limit] = {
    "runs": OrNull(ListOf(FilePath())),
    "benchmarks": OrNull(ListOf(Text(), shortest=1)),
    "parts": OrNull(ListOf(Text(), shortest=1)),
    "measure": OrNull(Text()),
    "resamples": Whole(100, 100_000),
    "seed": Whole(0),
    "out": OrNull(FilePath()),
}


def judge(plain: Mapping[str, Any]) -> None:
    """Refuse what cannot be followed."""
    check_settings(plain, LIMITS)
    runs = plain["runs"] or []
    if len(runs) < 2:
        told = f"runs=[{runs[0]}] names one run" if runs else "analyze forgetting needs runs="
        raise UserError(f"{told}: give two or more in the order of training, as runs=[runs/a,runs/b]")
    know_benchmarks(plain["benchmarks"] or [])
    for run in runs:
        newest_checkpoint(Path(run))
    refuse_unwritable(Path(plain["out"]) if plain["out"] is not None else Path(runs[-1]) / "analyze")
