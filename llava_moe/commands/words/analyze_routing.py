"""The words of ``llava-moe analyze routing``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_moe.commands.words.analyze import ON_RECORDS, judge_run
from llava_moe.config.limits import Limit, ListOf, OneOf, OrNull, Real, Whole
from llava_moe.errors import UserError


@dataclass(frozen=True)
class AllOrSteps:
    """``all``, or a list of steps."""

    steps: ListOf = ListOf(Whole(0), shortest=1)  # noqa: RUF009

    def admits(self, value: Any) -> bool:
        return OneOf(("all",)).admits(value) or self.steps.admits(value)

    def describe(self) -> str:
        return "all, or a list [...] of steps"


LIMITS: dict[str, Limit] = ON_RECORDS | {
    "checkpoints": OrNull(AllOrSteps()),
    "resamples": Whole(100, 100_000),
    "dead_below": Real(0, 1),
    "pictures": Whole(0, 100),
}


def judge(plain: Mapping[str, Any]) -> None:
    """Refuse what cannot be followed.

    Raises:
        UserError: the first setting that is at fault, or a run that keeps no such checkpoints.
    """
    judge_run("routing", plain, LIMITS)
    chosen_steps(plain)


def chosen_steps(plain: Mapping[str, Any]) -> list[int | None]:
    """The steps to look at, rising; one None for the checkpoint that ``checkpoint=`` names.

    Raises:
        UserError: ``checkpoints=`` beside another choice of one, or steps that the run does not keep.
    """
    from llava_moe.files.checkpoints import (
        MARKER,
        checkpoint_of,
        complete_checkpoints,
        is_complete,
        newest_checkpoint,
        step_of,
    )

    wanted, run = plain["checkpoints"], Path(plain["run"])
    if wanted is None:
        return [None]
    if plain["checkpoint"] != "last":
        raise UserError(f"checkpoint={plain['checkpoint']} and checkpoints={wanted}: give one of the two")
    if (run / MARKER).is_file():
        raise UserError(f"checkpoints={wanted}: {run} is one checkpoint; give its run's folder")
    newest = newest_checkpoint(run)
    there = [step_of(path) for path in complete_checkpoints(newest.parent)]
    if wanted == "all":
        return list(there)
    for step in wanted:
        if not is_complete(checkpoint_of(newest.parent.parent, step)):
            told = ", ".join(map(str, there))
            raise UserError(
                f"checkpoints={wanted}: {newest.parent.parent} keeps none of step {step}; there are {told} "
                "(train.keep_last=)"
            )
    return sorted(set(wanted))
