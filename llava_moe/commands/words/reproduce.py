"""The words of ``llava-moe reproduce``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llava_moe.config.as_typed import as_typed
from llava_moe.config.hydra_compose import resolved, run_composed
from llava_moe.config.key_limits import FLAG
from llava_moe.config.limits import Either, FilePath, Limit, ListOf, OneOf, OrNull, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.reproduce.setup import SCALE_NAMES
from llava_moe.runs.out_folder import refuse_unwritable

LIMITS: dict[str, Limit] = {
    "paper": OrNull(Text()),
    "figure": OrNull(Either((Whole(1), Text()))),
    "table": OrNull(Whole(1)),
    "size": OneOf(SCALE_NAMES),
    "seeds": OrNull(ListOf(Whole(0), shortest=1)),
    "samples": OrNull(Whole(1)),
    "at_once": Whole(1, 1024),
    "only": OrNull(Text()),
    "commands": FLAG,
    "more": OrNull(Text()),
    "cells": OrNull(FilePath()),
    "out": OrNull(FilePath()),
}


GRID_KEYS = ("paper", "figure", "table")
"""What names a figure or a table."""


def main(words: Sequence[str]) -> int:
    """Judge the words, then list the figures, or make one."""
    return run_composed("reproduce", [with_size(word) for word in words], lambda config, job: _begin(config, job))


def with_size(word: str) -> str:
    """``scale=`` names a group of Hydra's, which a figure has not."""
    return f"size={word.removeprefix('scale=')}" if word.startswith("scale=") else word


def with_scale(word: str) -> str:
    """``scale=`` as it was typed."""
    return f"scale={word.removeprefix('size=')}" if word.startswith("size=") else word


def _begin(config: DictConfig, words: Sequence[str]) -> int:
    plain = resolved(config, "reproduce")
    if all(plain[key] is None for key in GRID_KEYS):
        from llava_moe.commands.reproduce import list_figures

        return list_figures()
    judge(plain)
    from llava_moe.commands.reproduce import reproduce

    return reproduce(plain, [as_typed(with_scale(word)) for word in words])


def judge(plain: Mapping[str, Any]) -> None:
    """Hold the settings against their limits.

    Raises:
        UserError: the first that cannot be followed.
    """
    check_settings({"scale": plain["size"]}, {"scale": LIMITS["size"]})
    check_settings(plain, LIMITS)
    if plain["seeds"] is not None and len(set(plain["seeds"])) < len(plain["seeds"]):
        raise UserError(f"seeds={plain['seeds']}: a seed is there twice: give each once")
    if plain["more"] is not None:
        try:
            shlex.split(plain["more"])
        except ValueError as error:
            raise UserError(f"more={plain['more']}: {error}: write the words as a shell reads them") from error
    if plain["figure"] is not None and plain["table"] is not None:
        raise UserError(f"figure={plain['figure']} and table={plain['table']}: give one of them")
    if plain["paper"] is None:
        raise UserError("reproduce needs paper=: add paper=llava_mole; llava-moe reproduce lists all figures")
    if plain["figure"] is None and plain["table"] is None:
        raise UserError("reproduce needs figure=: add figure=1, or table=2; llava-moe reproduce lists all figures")
    for key in ("out", "cells"):
        if plain[key] is not None:
            refuse_unwritable(Path(plain[key]))
