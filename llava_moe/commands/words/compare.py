"""The words of ``llava-moe compare``: a few of its own, those that make runs, and those of every training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_moe.commands.compare_axes import Asked, read_axes
from llava_moe.commands.compare_grid import first_values, open_grid, told_of, words_of
from llava_moe.commands.job import refuse_misspelt
from llava_moe.config.as_typed import key_of
from llava_moe.config.hydra_compose import compose_again, resolved, run_composed
from llava_moe.config.key_limits import FLAG
from llava_moe.config.limits import FilePath, Limit, OrNull, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.runs.out_folder import refuse_unwritable

LIMITS: dict[str, Limit] = {
    "at_once": Whole(1, 1024),
    "only": OrNull(Text()),
    "commands": FLAG,
    "yes": FLAG,
    "out": OrNull(FilePath()),
}


def main(words: Sequence[str]) -> int:
    """Judge the words, then train what is not there yet, and write the page."""
    own = [word.lstrip("+") for word in words if key_of(word) in LIMITS]
    rest = [word for word in words if key_of(word) not in LIMITS]
    refuse_misspelt(rest, LIMITS)
    asked = read_axes(rest)
    begun: list[bool] = []

    def run(*_: Any) -> int:
        begun.append(True)
        return _begin(asked, own)

    def compose(words: list[str]) -> None:
        run_composed("train", [*asked.flags, *words], lambda *_: 0)

    first = first_values(asked)
    try:
        return run_composed("train", [*asked.flags, *words_of(asked, first)], run)
    except UserError as error:
        if begun:
            raise
        raise told_of(error, asked, first, compose) from error


def _begin(asked: Asked, own: Sequence[str]) -> int:
    choices = resolved(compose_again("compare", own), "compare")
    check_settings(choices, LIMITS)
    if choices["out"] is not None:
        refuse_unwritable(Path(choices["out"]))
    compared = open_grid(asked)
    if choices["only"] is not None:
        compared.grid.only([choices["only"]])
    from llava_moe.commands.compare import compare

    return compare(asked, compared, choices)
