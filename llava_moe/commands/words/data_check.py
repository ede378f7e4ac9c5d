"""The words of ``llava-moe data check``."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.commands.job import DataJob, run_job
from llava_moe.config.key_limits import FLAG
from llava_moe.config.limits import FilePath, Limit, ListOf, OneOf, OrNull, Whole

LIMITS: dict[str, Limit] = {
    "out": OrNull(FilePath()),
    "num_processes": OrNull(Whole(1)),
    "sample_images": OrNull(Whole(0)),
    "against": ListOf(FilePath()),
    "against_images": OrNull(FilePath()),
    "duplicates": OneOf(("leave_out", "keep")),
    "strict": FLAG,
}


def main(words: Sequence[str]) -> int:
    """Judge the words, then check, show, and write the list, the numbers and the page."""
    return run_job("data_check", words, LIMITS, _begin)


def _begin(job: DataJob) -> int:
    from llava_moe.commands.data_check import check

    return check(job)
