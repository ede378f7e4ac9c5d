"""Names of a run's checkpoints: ``step-000500``, by the number of the step."""

from __future__ import annotations

import re
from pathlib import Path

ASIDE = ".old"
"""Behind the name of a checkpoint that was there already, while the new one takes its place."""
# Of six digits or, from a million steps on, of more: names sort as numbers, never as text.
_NAME = re.compile(rf"step-(\d{{1,18}})({re.escape(ASIDE)})?")


def is_checkpoint_name(name: str) -> bool:
    """Whether a file such as ``last`` may name this checkpoint."""
    return _NAME.fullmatch(name) is not None and not name.endswith(ASIDE)


def step_of_name(name: str) -> int | None:
    """The step of a checkpoint's name; None of another name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """The checkpoints in a run's folder ``checkpoints``, whole or not, oldest first.

    A folder of another name, such as a copy that somebody keeps, is none of ours. One that a kill left aside comes
    before that of the same step.
    """
    found = [(step, path) for path in checkpoints.glob("step-*") if (step := step_of_name(path.name)) is not None]
    return [path for _, path in sorted(found, key=lambda one: (one[0], one[1].suffix != ASIDE))]
