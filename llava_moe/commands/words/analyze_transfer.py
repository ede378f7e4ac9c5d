"""The words of ``llava-moe analyze transfer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.commands.words.analyze import ON_RECORDS, Checkpoint, judge_run
from llava_moe.config.key_limits import FLAG
from llava_moe.config.limits import Limit, ListOf, OneOf, Real, Whole
from llava_moe.errors import UserError

START = "start"
"""``checkpoint=start``: the run as it was before its first step."""
FEWEST = 8
"""Held-out records of each domain: an interval of fewer says nothing."""
LIMITS: dict[str, Limit] = ON_RECORDS | {
    "by": OneOf(("domain",)),
    "checkpoint": Checkpoint(("last", "best", START)),
    "steps": Whole(1),
    "rate": Real(0, open_below=True),
    "seeds": ListOf(Whole(0), shortest=1),
    "gradients": FLAG,
    "resamples": Whole(100, 100_000),
}


def judge(plain: Mapping[str, Any]) -> None:
    """Refuse what cannot be followed.

    Raises:
        UserError: the first setting that is wrong.
    """
    judge_run("transfer", plain, LIMITS)
    if 0 < plain["samples"] < FEWEST:
        raise UserError(f"samples={plain['samples']}: give at least {FEWEST}, or 0 for all")
    if len(set(plain["seeds"])) < len(plain["seeds"]):
        raise UserError(f"seeds={plain['seeds']}: a seed stands there twice; give each once")
