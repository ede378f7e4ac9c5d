"""Where a command writes is judged before anything heavy is loaded: it can be a folder, and it is nobody else's."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.train.folder import BAD_RECORDS, is_run_folder

# What a command writes before the run is begun there, what a start that was refused leaves, and what batch systems and
# shells write of it.
BESIDE = {"plan.json", BAD_RECORDS}
OUTPUT_OF_IT = (".log", ".out", ".err")


def refuse_unwritable(folder: Path) -> None:
    """Refuse a place that is no folder, or where none can be made.

    Raises:
        UserError: saying what stands in the way.
    """
    place = Path(os.path.abspath(folder))
    for one in (place, *place.parents):
        try:
            is_there, is_folder = os.path.lexists(one), one.is_dir()
        except OSError as error:
            raise UserError(
                f"out={folder}: {one} cannot be looked at ({error.strerror}); choose another with out="
            ) from error
        if is_there and not is_folder:
            raise UserError(f"out={folder}: {one} is there already and is no folder; choose another with out=")
        if is_there:
            if not os.access(one, os.W_OK | os.X_OK):
                raise UserError(f"out={folder}: nothing can be written in {one}; choose a folder of yours with out=")
            return


def refuse_foreign(folder: Path, stages: Collection[str] = ()) -> None:
    """Refuse a folder for a run that holds what no run of ours wrote: it is never mixed with other files.

    Args:
        stages: names of the folders of an experiment's stages, by which its own folder is known.

    Raises:
        UserError: naming a file that lies there, or as :func:`refuse_unwritable`.
    """
    refuse_unwritable(folder)
    if not folder.is_dir():
        return
    try:
        names = {one.name for one in folder.iterdir() if not one.name.endswith(OUTPUT_OF_IT)} - BESIDE
    except OSError as error:
        raise UserError(f"out={folder}: cannot be looked at ({error.strerror}); choose another with out=") from error
    if names and not is_run_folder(folder) and names.isdisjoint(stages):
        raise UserError(
            f"out={folder}: the folder is neither empty nor a run's ({min(names)} lies in it); "
            "choose one that is not there yet, such as out=runs/NAME"
        )
