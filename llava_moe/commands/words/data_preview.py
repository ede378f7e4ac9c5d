"""The words of ``llava-moe data preview``."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.commands.job import DataJob, run_job
from llava_moe.config.limits import FilePath, Limit, OrNull, Whole
from llava_moe.runs.named_files import find_data

LIMITS: dict[str, Limit] = {
    "out": OrNull(FilePath()),
    "rows": Whole(1),
    "shown": Whole(0),
    "epoch": Whole(0),
    "step": Whole(0),
    "ranks": Whole(1),
}


def main(words: Sequence[str]) -> int:
    """Judge the words, then show the first rows of every stage and write them as a page."""
    return run_job("data_preview", words, LIMITS, _begin)


def _begin(job: DataJob) -> int:
    for stage in job.stages:
        find_data(stage.config)
    from llava_moe.commands.data_preview import preview

    return preview(job)
