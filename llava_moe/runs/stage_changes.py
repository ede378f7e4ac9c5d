"""What may change between two starts of a run, told: its length, and where its data and base lie."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from llava_moe.config.as_typed import as_typed
from llava_moe.config.as_word import as_word
from llava_moe.errors import UserError
from llava_moe.files.our_files import read_object
from llava_moe.runs.stages import Stage
from llava_moe.text.shell_words import named, shell
from llava_moe.train.folder import ENVIRONMENT, FolderClaim, changed_lengths, changes_to_go_on, has_trained


def changes_told(claim: FolderClaim | None, num_steps: int) -> list[str]:
    """Lines on a run that goes on at another length, or on data or a base that was moved."""
    if claim is None:
        return []
    notes = []
    if claim.lengths:
        notes.append(
            f"its length is another: {_said(claim.lengths)}; from here on its rates are those of a run of "
            f"{num_steps:,} steps"
        )
    if claim.places:
        notes.append(f"moved, with the same content: {_said(claim.places)}")
    return notes


def lengthened(folder: Path, claim: FolderClaim | None, step: int) -> dict[str, Any]:
    """``lengthened`` of a run's ``environment.json``: at which steps it was given another length, and which.

    Nothing for a run that never was.
    """
    path, remedy = folder / ENVIRONMENT, "put it back, or choose another folder with out="
    told = read_object(path, remedy, {"lengthened?": [dict]}) if path.is_file() else {}
    entries = list(told.get("lengthened", ()))
    if claim is not None and claim.lengths:
        entries.append({"step": step} | {key: list(pair) for key, pair in claim.lengths.items()})
    return {"lengthened": entries} if entries else {}


def refuse_longer_start(stages: Sequence[Stage]) -> None:
    """Refuse another length of a stage from which the next has begun: that one would stand on other weights.

    Raises:
        UserError: with the command that makes the last stage alone longer.
    """
    for one, following in pairwise(stages):
        lengths = changed_lengths(one.folder, one.config.plain)
        if lengths and has_trained(following.folder):
            last = stages[-1]
            start = {"init_from": str(last.config.init_from), "out": str(last.folder)}
            words = [*(as_typed(word) for word in last.words), *(f"{key}={value}" for key, value in start.items())]
            raise UserError(
                f"{one.folder} would be longer ({_said(lengths)}), and {following.folder.name} began from it as it is: "
                f"choose another folder with out=, or go on with the last stage alone: "
                f"{shell('llava-moe', 'train', *words)}"
            )


def runs_to_go_on_with(stage: Stage, name: str) -> list[str]:
    """Lines on runs beside a stage's folder that are the same but for their length or the places of their data.

    The name of a folder that was not given is made of all settings, so that a longer run would begin from its start.
    """
    notes = []
    for other in sorted(stage.folder.parent.glob(f"{glob.escape(name)}-*")):
        try:
            changes = {} if other == stage.folder else changes_to_go_on(other, stage.config.plain)
        except UserError:  # its files are damaged, which is no matter of this run's
            continue
        if changes:
            notes.append(
                f"{other} holds the same run with another length or place ({_said(changes)}): "
                f"add {named('out', other)} to go on with it"
            )
    return notes


def _said(changes: Mapping[str, tuple[Any, Any]]) -> str:
    # What one word changed under several keys is said once, by the shortest.
    said = {pair: key for key, pair in sorted(changes.items(), key=lambda change: -len(change[0]))}
    return ", ".join(f"{key} {as_word(old)} -> {as_word(new)}" for (old, new), key in reversed(said.items()))
