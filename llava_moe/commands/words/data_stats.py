"""The words of ``llava-moe data stats``."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.commands.job import DataJob, run_job
from llava_moe.config.limits import FilePath, Limit, OrNull, Whole
from llava_moe.runs.named_files import find_data

LIMITS: dict[str, Limit] = {"out": OrNull(FilePath()), "epochs": OrNull(Whole(1)), "ranks": Whole(1)}


def main(words: Sequence[str]) -> int:
    """Judge the words, then count, show and write the account of every stage."""
    return run_job("data_stats", words, LIMITS, _begin)


def _begin(job: DataJob) -> int:
    for stage in job.stages:
        find_data(stage.config)
    from llava_moe.commands.data_stats import show_stats

    return show_stats(job)
