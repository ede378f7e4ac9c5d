"""The words of ``llava-moe analyze interference``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.commands.words.analyze import ON_RECORDS, judge_run
from llava_moe.config.key_limits import FLAG
from llava_moe.config.limits import Limit, ListOf, OneOf, OrNull, Real, Whole
from llava_moe.errors import UserError

FEWEST = 8
"""Records of each domain or task: an interval of fewer says nothing."""

LIMITS: dict[str, Limit] = ON_RECORDS | {
    "projector": FLAG,
    "resamples": Whole(100, 100_000),
    "exact": ListOf(OneOf(("all", "side", "linear", "layer"))),
    "exact_samples": Whole(FEWEST),
    "step_size": OrNull(Real(0, open_below=True)),
}


def judge(plain: Mapping[str, Any]) -> None:
    """Refuse what cannot be followed."""
    judge_run("interference", plain, LIMITS)
    if 0 < plain["samples"] < FEWEST:
        raise UserError(f"samples={plain['samples']}: give at least {FEWEST}, or 0 for all")
