"""Where runs lie below ``runs``, and what is said of one that is not where it was sought."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("runs")
CONFIG = "config.yaml"
_DEEPEST = 6
_MOST_NEAR = 3


def all_runs(root: Path = ROOT) -> Iterator[Path]:
    """Folders that hold a configuration of ours; what lies inside a run is its own, stages of an experiment apart."""
    for place, folders, files in os.walk(root):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        if CONFIG in files and depth:
            yield folder
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEEPEST else []


def absent_run(folder: Path, root: Path = ROOT) -> str:
    """``NAME does not exist (did you mean runs/compare/x/cells/NAME?): llava-moe ls run lists the runs here``.

    The nearest are all that are called so, however deep they lie, runs and experiments of several stages; else the one
    whose name is most like it.
    """
    runs = [*all_runs(root)]
    places = dict.fromkeys([*runs, *(run.parent for run in runs if run.name[0].isdigit() and run.parent != root)])
    near = [place for place in places if place.name == folder.name]
    if not near:
        names = difflib.get_close_matches(folder.name, [place.name for place in places], n=1)
        near = [place for place in places if place.name in names]
    told = " or ".join(map(str, sorted(near)[:_MOST_NEAR]))
    return f"{folder} does not exist{f' (did you mean {told}?)' if told else ''}: llava-moe ls run lists the runs here"
