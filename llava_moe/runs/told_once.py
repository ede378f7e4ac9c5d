"""What ends several processes of a run is told in one line by one of them."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from llava_moe.errors import UserError
from llava_moe.runs.meeting import (
    SECONDS_OF_A_LOOK,
    SECONDS_TO_ANSWER,
    Meeting,
    Place,
    answered,
    client_of,
    has_heard,
    keep,
    reached,
    unreached,
)
from llava_moe.text.structured_text import parse_json

SECONDS_FOR_AN_ERROR = 30.0
"""For which a process with an error waits for the first one, whose it may be to tell."""
SECONDS_TO_HEAR = 30.0
"""For which the first process, which has told its error, waits for the others to hear of it."""
SECONDS_OF_A_CONSEQUENCE = 2.0
"""The same once all have met, and for which one that has lost another waits for that one's own words."""


def tell_once(line: str, write: Callable[[], None], is_consequence: bool = False) -> None:
    """Write what ends this process, unless another process of the run has written the same.

    The first process writes its own and lets the others hear of it; another waits a while for that. Where nobody can be
    asked, each writes.

    Args:
        is_consequence: the line says that another process is gone: one that has told why has told enough.
    """
    try:
        place = Place.told()
    except UserError:
        place = None
    if place is None or unreached:
        write()
    elif reached:
        if is_consequence and _is_told_why(reached[0]):
            hear()
        elif _claims(reached[0], line):
            write()
        if place.keeps_store and reached[0].notes.check(["met"]):
            _let_hear(lambda: reached[0].notes.add("num_heard", 0) >= place.world, SECONDS_OF_A_CONSEQUENCE)
        elif place.keeps_store:
            _let_hear(lambda: _those_come_have_heard(reached[0]))
    elif place.keeps_store:
        write()
        with suppress(UserError):
            meeting = keep(place)
            _claims(meeting, line)
            _let_hear(lambda: meeting.notes.add("num_heard", 0) >= place.world)
    elif _is_first_to_tell(place, line):
        write()


def hear() -> None:
    """Note, without a word, that this process ends for what another has told."""
    if reached:
        answered(partial(has_heard, reached[0]))


def _is_told_why(meeting: Meeting) -> bool:
    """Whether another process tells, in a moment, why it is gone."""
    for _ in _looks(SECONDS_OF_A_CONSEQUENCE):
        found = answered(lambda: bool(meeting.notes.check(["failed"])))
        if found or found is None:
            return bool(found)
    return False


def _let_hear(have_heard: Callable[[], bool], seconds: float = SECONDS_TO_HEAR) -> None:
    """Keep the store until others have heard, for a while."""
    for _ in _looks(seconds):
        if have_heard():
            return


def _those_come_have_heard(meeting: Meeting) -> bool:
    notes = meeting.notes
    come = [rank for rank in range(1, meeting.place.world) if notes.check([f"come/{rank}"])]
    return all(notes.check([f"heard/{parse_json(notes.get(f'come/{rank}'))['name']}"]) for rank in come)


def _is_first_to_tell(place: Place, line: str) -> bool:
    """Whether no other has told it; the first process is waited for, as it is the one to."""
    store, began = None, time.monotonic()
    for _ in _looks(SECONDS_FOR_AN_ERROR):
        if store is None and _is_open(place):
            store = client_of(place.host, place.port)
            if store is None:
                return True
        if store is None:
            continue
        meeting = Meeting(place, store, place.host)
        is_told = place.rank == 0 or answered(partial(_first_is_heard_of, meeting))
        if is_told or is_told is None or time.monotonic() - began > SECONDS_FOR_AN_ERROR - 1:
            return _claims(meeting, line)
    return True


def _first_is_heard_of(meeting: Meeting) -> bool:
    return bool(meeting.notes.check(["come/0"]) or meeting.notes.check(["failed"]))


def _is_open(place: Place) -> bool:
    try:
        socket.create_connection((place.host, place.port), timeout=SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True


def _claims(meeting: Meeting, line: str) -> bool:
    """Whether this process is the first with this line; the meeting, if it lasts, hears of the error."""
    place, notes = meeting.place, meeting.notes

    def claim() -> bool:
        is_first = bool(notes.add(f"told/{hashlib.sha256(line.encode()).hexdigest()}", 1) == 1)
        if not notes.check(["failed"]):
            notes.set("failed", json.dumps({"rank": place.rank, "host": socket.gethostname()}))
        has_heard(meeting)
        return is_first

    return answered(claim) is not False


def _looks(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(SECONDS_OF_A_LOOK / 4)
