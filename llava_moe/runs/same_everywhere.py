"""What must be the same for all processes of a run, found before step 1: settings, code, data and the run's folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from llava_moe.errors import UserError
from llava_moe.eval.ranks import Ranks
from llava_moe.train.folder import PLACES, flatten

SECONDS_TO_APPEAR = 10.0
"""A name that was never asked for is looked up at once by network file systems too; this is for slow ones."""
MEETING = ".meeting-"


def refuse_unlike(configs: Sequence[Mapping[str, Any]], ranks: Ranks) -> None:
    """Refuse processes that were started with other words, code or libraries than the first; all call it.

    Args:
        configs: of each stage, as plain values. Where data and models lie may differ: what they hold is compared when
            it is there.

    Raises:
        UserError: in the first process, naming the other, its machine, and what differs.
        ReportedByRankZeroError: in the others.
    """
    if ranks.world == 1:
        return
    settings = {
        (f"stage {number}: " if len(configs) > 1 else "") + key: str(value)
        for number, config in enumerate(configs, 1)
        for key, value in flatten(config).items()
        if not (PLACES.fullmatch(key) or key == "out" or key.startswith("log."))
    }
    installed = {"llava_moe's code": code_hash(), "torch": torch.__version__}
    _refuse(
        {"the number of stages": str(len(configs)), **installed, **settings},
        "start all processes with the same words and the same installation",
        ranks,
    )


def refuse_other_data(of_samples: Mapping[str, str], of_images: Mapping[str, str], ranks: Ranks) -> None:
    """Refuse processes that read other records or images than the first; all call it.

    Args:
        of_samples, of_images: hashes by source.

    Raises:
        UserError, ReportedByRankZeroError: as :func:`refuse_unlike`.
    """
    found = {
        **{f"the records of {source}": told for source, told in of_samples.items()},
        **{f"the images of {source}": told for source, told in of_images.items()},
    }
    _refuse(found, "give all machines the same files", ranks)


def _refuse(facts: Mapping[str, str], remedy: str, ranks: Ranks) -> None:
    told = ranks.gather((socket.gethostname(), dict(facts)))
    ranks.from_first(lambda: _compare(told, remedy))


def _compare(told: Sequence[tuple[str, Mapping[str, str]]], remedy: str) -> None:
    _, first = told[0]
    for rank, (host, facts) in enumerate(told):
        for key in (*first, *facts):
            if facts.get(key) != first.get(key):
                raise UserError(
                    f"process {rank} (on {host}) differs from process 0 in {key}: {facts.get(key, 'not set')} and "
                    f"{first.get(key, 'not set')}; {remedy}"
                )


@cache
def code_hash() -> str:
    """Twelve hex digits over the files of this package that make results."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def refuse_unshared(folder: Path, ranks: Ranks) -> None:
    """Refuse a run's folder that not every process sees: a checkpoint would lack what the others write; all call it.

    Raises:
        UserError: in the first process, naming the machines that see another folder.
        ReportedByRankZeroError: in the others.
    """
    if ranks.world == 1:
        return
    meeting = folder / ranks.from_first(lambda: _make_meeting(folder))
    places = ranks.gather((socket.gethostname(), os.path.abspath(folder), _appears(meeting)))
    unseen = [f"{host} ({place})" for host, place, is_there in places if not is_there]

    def judge() -> None:
        meeting.unlink(missing_ok=True)
        if unseen:
            raise UserError(
                f"out={folder} is not one folder for all processes: {', '.join(dict.fromkeys(unseen))} does not hold "
                f"what process 0 wrote into {os.path.abspath(folder)} on {places[0][0]}; give a folder that all "
                "machines share, by its whole path"
            )

    ranks.from_first(judge)


def _make_meeting(folder: Path) -> str:
    """A file of a name that nobody has asked for, in the place of those that a kill has left."""
    meeting = folder / f"{MEETING}{secrets.token_hex(8)}"
    try:
        for stale in folder.glob(f"{MEETING}*"):
            stale.unlink(missing_ok=True)
        meeting.touch()
    except OSError as error:
        raise UserError(f"out={folder}: nothing can be written there ({error.strerror}); choose another") from error
    return meeting.name


def _appears(meeting: Path) -> bool:
    """Whether the file of the first process is seen here, sooner or later."""
    patience = time.monotonic() + SECONDS_TO_APPEAR
    while not meeting.exists():
        if time.monotonic() > patience:
            return False
        time.sleep(0.2)
    return True
