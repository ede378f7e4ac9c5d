"""What the words name is looked for on the disk before anything heavy is loaded: data, runs, benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from llava_moe.config.settings import sources_of
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.run_config import RunConfig
from llava_moe.runs.stages import Stage


def find_data(config: RunConfig) -> None:
    """Refuse sources whose files are not there.

    Raises:
        UserError: naming the first.
    """
    from llava_moe.data.source import find_files

    _refuse_list(config.path, "path", "one file, a folder of files or a pattern such as 'data/*.json' stands there")
    _refuse_list(config.images, "images", "one folder stands there, which the paths in the records start from")
    for source in sources_of(config):
        find_files(source)


def _refuse_list(given: str | None, key: str, instead: str) -> None:
    if given is not None and given.startswith("[") and not Path(given).exists():
        raise UserError(f"{key}={given}: {instead}; several are named by their domains, {key}={{DOMAIN: PATH, ...}}")


def find_starts(stages: Sequence[Stage]) -> None:
    """Refuse ``init_from`` that is no run with a checkpoint, but for stages that are yet to come.

    Raises:
        UserError: naming the first.
    """
    planned = {str(stage.folder) for stage in stages}
    for start in (stage.config.init_from for stage in stages):
        if start is not None and start not in planned:
            newest_checkpoint(Path(start))


def know_benchmarks(names: Iterable[str]) -> None:
    """Refuse names that no benchmark has, and files of the user's whose scores would be called alike.

    Raises:
        UserError: naming the first, with the nearest.
    """
    from llava_moe.eval.own.names import refuse_shared_names
    from llava_moe.eval.tasks import benchmark_names, expect_known

    known = [*names]
    for name in known:
        expect_known(name, "benchmarks")
    refuse_shared_names(known, benchmark_names())
