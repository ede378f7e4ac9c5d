"""The words of ``llava-moe analyze interference``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.commands.limits import FLAG, Choice, Limit, ListOf, OrNull, Real, Whole
from llava_moe.commands.words.analyze import judge_run

LIMITS: dict[str, Limit] = {
    "projector": FLAG,
    "resamples": Whole(100, 100_000),
    "exact": ListOf(Choice(("all", "side", "linear", "layer"))),
    "exact_samples": Whole(2),
    "step_size": OrNull(Real(0, open_below=True)),
}


def judge(plain: Mapping[str, Any]) -> None:
    """Refuse what cannot be followed."""
    judge_run("interference", plain, LIMITS)
