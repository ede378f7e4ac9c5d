"""The words of ``llava-moe plan``."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.commands.job import Job, run_job
from llava_moe.commands.limits import FLAG, FilePath, Limit, OrNull, Real, Text, Whole
from llava_moe.commands.named_files import find_starts
from llava_moe.plan.devices import expect_known

LIMITS: dict[str, Limit] = {
    "device": OrNull(Text()),
    "num_devices": OrNull(Whole(1)),
    "mfu": OrNull(Real(0, 1, open_below=True)),
    "probe": FLAG,
    "out": OrNull(FilePath()),
}


def main(words: Sequence[str]) -> int:
    """Judge the words, then plan every stage, show it, and refuse what cannot fit."""
    return run_job("plan", words, LIMITS, _begin)


def _begin(job: Job) -> int:
    expect_known(job.choices["device"])
    find_starts(job.stages)
    from llava_moe.commands.plan import plan

    return plan(job)
