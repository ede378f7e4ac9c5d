"""The words of ``llava-moe plan``: those of a training, or of a figure, whose runs are planned together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava_moe.commands.job import DataJob, run_job
from llava_moe.commands.words import reproduce
from llava_moe.config.as_typed import as_typed, set_key
from llava_moe.config.hydra_compose import compose_again, resolved, run_composed
from llava_moe.config.key_limits import FLAG
from llava_moe.config.limits import FilePath, Limit, OrNull, Real, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.plan.devices import expect_known
from llava_moe.runs.named_files import find_starts
from llava_moe.text.shell_words import shell

LIMITS: dict[str, Limit] = {
    "device": OrNull(Text()),
    "num_devices": OrNull(Whole(1)),
    "mfu": OrNull(Real(0, 1, open_below=True)),
    "probe": FLAG,
    "out": OrNull(FilePath()),
}


def main(words: Sequence[str]) -> int:
    """Judge the words, then plan every stage, show it, and refuse what cannot fit."""
    if any(set_key(word) in reproduce.GRID_KEYS for word in words):
        return _main_of_grid(words)
    return run_job("plan", words, LIMITS, _begin)


def _begin(job: DataJob) -> int:
    expect_known(job.choices["device"])
    find_starts(job.stages)
    from llava_moe.commands.plan import plan

    return plan(job)


def _main_of_grid(words: Sequence[str]) -> int:
    own = [word.lstrip("+") for word in words if set_key(word) in LIMITS]
    rest = [word for word in words if set_key(word) not in LIMITS]

    def run(plain: dict[str, Any]) -> int:
        choices = resolved(compose_again("plan", own), "plan")
        check_settings(choices, LIMITS)
        expect_known(choices["device"])
        reproduce.judge(plain)
        from llava_moe.commands.plan_grid import plan_grid

        return plan_grid(plain, choices, shell(*map(as_typed, rest)))

    sized = [reproduce.with_size(word) for word in rest]
    return run_composed("reproduce", sized, lambda config, _: run(resolved(config, "reproduce")))
