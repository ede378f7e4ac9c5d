"""Where the processes of a launcher meet before torch's groups are made: who is there, who is not, who has an error.

They meet by torch's own store, which process 0 keeps, or torchrun. Nobody waits in it: each looks again and again, so
that a signal is heard, the error of another ends all, and who does not come is named.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from llava_moe.errors import ReportedByRankZeroError, UserError
from llava_moe.runs.network_interface import interface_of, is_own_address
from llava_moe.text.escape_control import visible
from llava_moe.text.structured_text import parse_json

SECONDS_UNSAID = 15.0
"""After which a line says who is waited for."""
SECONDS_MORE = 30.0
"""For which the others wait longer than the first one, who names those that are missing."""
SECONDS_OF_A_LOOK = 0.2
SECONDS_TO_ANSWER = 5.0
NUM_NAMED = 8
Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """This process, and where all meet, as a launcher tells it.

    Attributes:
        job: of the launcher, where it has a name: two jobs that are told one place do not mix.
    """

    rank: int
    world: int
    host: str
    port: int
    job: str

    @staticmethod
    def told() -> Place | None:
        """What the environment says; None where one process is alone.

        Raises:
            UserError: a variable is missing, or is no number that it may be.
        """
        world = number_of_processes()
        if world == 1:
            return None
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise UserError(
                f"WORLD_SIZE={world} without {' and '.join(missing)} in the environment: use a launcher, or unset it"
            )
        rank, port = _number("RANK", world - 1), _number("MASTER_PORT", 65535)
        names = ("LLAVA_MOE_JOB", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
        job = next((os.environ[name] for name in names if os.environ.get(name)), "")
        # A launcher that starts processes again keeps its store.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return Place(rank, world, os.environ["MASTER_ADDR"], port, f"{job}/{start}")

    @property
    def keeps_store(self) -> bool:
        """Whether this process keeps the store; torchrun does for its own."""
        return self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    @property
    def at(self) -> str:
        """As a person writes it."""
        return f"{self.host}:{self.port}"


def number_of_processes() -> int:
    """``WORLD_SIZE``; 1 where there is none.

    Raises:
        UserError: it is no such number.
    """
    told = os.environ.get("WORLD_SIZE", "1")
    if not (told.isascii() and told.isdecimal()) or int(told) < 1:
        raise UserError(f"WORLD_SIZE={told} in the environment is no number of processes: unset it, or use a launcher")
    return int(told)


def _number(name: str, largest: int) -> int:
    told = os.environ[name]
    if not (told.isascii() and told.isdecimal()) or int(told) > largest:
        raise UserError(f"{name}={told} in the environment is not a number from 0 to {largest}: use a launcher")
    return int(told)


@dataclass
class Meeting:
    """The store that all meet by, once it is reached, and the address of this machine that leads to the others.

    Attributes:
        number: of the trainings of one command that meet here, one after the other.
    """

    place: Place
    store: Any
    own_address: str
    number: int = 0

    @property
    def name(self) -> str:
        """Unlike that of any other meeting by the same store."""
        return f"{self.place.job}/{self.number}"

    @property
    def notes(self) -> Any:
        """What the processes tell each other."""
        return dist.PrefixStore(f"llava_moe/meeting/{self.name}", self.store)  # type: ignore[attr-defined]


reached: list[Meeting] = []
unreached: list[Place] = []


def meeting_name() -> str:
    """Of the meeting that this process has come to, for what else is kept in the store."""
    return reached[0].name if reached else ""


def meet(seconds: float) -> Any:
    """The store for torch's groups, once all processes have come; None where one is alone.

    Raises:
        UserError: the place cannot be reached or kept, or not all came within ``seconds``; in one process of each
            machine that it is so for. A process that ended with an error before all had met is named by the first.
        ReportedByRankZeroError: another process has told it.
    """
    place = Place.told()
    if place is None:
        return None
    deadline = time.monotonic() + seconds
    if reached:
        meeting = replace(reached[0], number=reached[0].number + 1)
    else:
        meeting = keep(place) if place.keeps_store else _reach(place, deadline, seconds)
    reached[:] = [meeting]
    try:
        _come(meeting)
        _await_all(meeting, deadline, seconds) if place.rank == 0 else _await_the_first(meeting, deadline, seconds)
    except dist.DistError as error:
        raise UserError(
            f"process 0 of this run, or the launcher, has gone from {place.at}: its own output says why"
        ) from error
    _set_interface(meeting)
    # A connection of its own: the groups wait for longer than notes do.
    store = client_of("localhost" if place.keeps_store else place.host, place.port)
    if store is None:
        raise UserError(f"process 0 of this run, or the launcher, does not answer at {place.at} any more")
    return dist.PrefixStore(f"llava_moe/groups/{meeting.name}", store)  # type: ignore[attr-defined]


def keep(place: Place) -> Meeting:
    """Open the store for the others, on every address of this machine."""
    patience = timedelta(seconds=SECONDS_TO_ANSWER)
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "localhost", place.port, is_master=True, wait_for_workers=False, timeout=patience
        )
    except dist.DistError as error:
        unreached.append(place)
        why = "another program uses it" if "EADDRINUSE" in str(error) else str(error).splitlines()[0][:120]
        raise UserError(
            f"port {place.port} of {socket.gethostname()} cannot be opened for the other processes ({why}): is another "
            "run of yours on? Give a free one with MASTER_PORT="
        ) from error
    return Meeting(place, store, place.host)


def _reach(place: Place, deadline: float, seconds: float) -> Meeting:
    """Find the store of process 0, or of the launcher, which may begin later than this process."""
    is_said, began, trouble = False, time.monotonic(), "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((place.host, place.port), timeout=SECONDS_TO_ANSWER) as probe:
                address = str(probe.getsockname()[0])
        except OSError as error:
            trouble = error.strerror or str(error)
        else:
            if (store := client_of(place.host, place.port)) is not None:
                return Meeting(place, store, address)
            trouble = "what answers there is no process of a run"
        if not is_said and time.monotonic() - began > SECONDS_UNSAID and _speaks_for_its_machine():
            is_said = True
            _say(f"process {place.rank} (on {socket.gethostname()}) waits for process 0 at {place.at} ({trouble})")
        time.sleep(SECONDS_OF_A_LOOK)
    unreached.append(place)
    if not _speaks_for_its_machine():
        raise ReportedByRankZeroError
    raise UserError(
        f"process {place.rank} (on {socket.gethostname()}) does not reach process 0 at {place.at} within {seconds:g} s "
        f"({trouble}): MASTER_ADDR and MASTER_PORT must name the machine of process 0 and a port that is open to all"
    )


def client_of(host: str, port: int) -> Any:
    """A connection to the store; None where something else answers."""
    patience = timedelta(seconds=SECONDS_TO_ANSWER)
    return answered(
        lambda: dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=False, wait_for_workers=False, timeout=patience
        )
    )


def answered(ask: Callable[[], Value]) -> Value | None:
    """What a store gives; None where it is gone, or answers nothing, which torch would wait for without end."""
    found: list[Value] = []

    def call() -> None:
        with suppress(dist.DistError):
            found.append(ask())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER + 1)
    return found[0] if found else None


def _come(meeting: Meeting) -> None:
    """Say that this process is there; no other may say that it is the same."""
    place, notes = meeting.place, meeting.notes
    host = socket.gethostname()
    num_alike = notes.add(f"num/{place.rank}", 1)
    if num_alike > 1 and place.rank > 0:
        raise UserError(
            f"two processes say RANK={place.rank} at {place.at}, this one on {host}: a run meets at one place, and "
            "each of its processes has its own RANK"
        )
    peer = "" if place.rank == 0 else socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][4][0]
    notes.set(
        f"come/{place.rank}", json.dumps({"host": host, "name": own_name(), "world": place.world, "first_is_at": peer})
    )


def _await_all(meeting: Meeting, deadline: float, seconds: float) -> None:
    place, notes, began, is_said = meeting.place, meeting.notes, time.monotonic(), False
    missing = [*range(1, place.world)]
    while missing:
        _end_with_the_failed(meeting)
        missing = [rank for rank in missing if not notes.check([f"come/{rank}"])]
        if missing and time.monotonic() > deadline:
            notes.set("failed", json.dumps({"rank": 0, "host": socket.gethostname()}))
            raise UserError(
                f"{_named(missing)} of {place.world} did not come to {place.at} within {seconds:g} s"
                f"{_strange(place)}: start all, with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE"
            )
        if missing and not is_said and time.monotonic() - began > SECONDS_UNSAID:
            is_said = True
            _say(f"process 0 waits at {place.at}{_strange(place)} for {_named(missing)} of {place.world}")
        if missing:
            time.sleep(SECONDS_OF_A_LOOK)
    for rank in range(1, place.world):
        told = parse_json(notes.get(f"come/{rank}"))
        if told["world"] != place.world:
            notes.set("failed", json.dumps({"rank": 0, "host": socket.gethostname()}))
            raise UserError(
                f"process {rank} (on {told['host']}) was started with WORLD_SIZE={told['world']}, and process 0 with "
                f"{place.world}: start all with the same"
            )
        # As another machine sees this one: its own name may lead it to itself alone (127.0.1.1).
        if told["host"] != socket.gethostname():
            meeting.own_address = told["first_is_at"]
    notes.set("met", "")


def _await_the_first(meeting: Meeting, deadline: float, seconds: float) -> None:
    while not meeting.notes.check(["met"]):
        _end_with_the_failed(meeting)
        if time.monotonic() > deadline + SECONDS_MORE:
            raise UserError(f"process 0 at {meeting.place.at} does not say within {seconds:g} s that all have come")
        time.sleep(SECONDS_OF_A_LOOK)


def _end_with_the_failed(meeting: Meeting) -> None:
    if not meeting.notes.check(["failed"]):
        return
    told = parse_json(meeting.notes.get("failed"))
    has_heard(meeting)
    if meeting.place.rank == 0:
        raise UserError(
            f"process {told['rank']} (on {told['host']}) has ended before all had met: its own output says why"
        )
    raise ReportedByRankZeroError


def has_heard(meeting: Meeting) -> None:
    """Note that this process knows of an error: the first one waits for that."""
    meeting.notes.set(f"heard/{own_name()}", "")
    meeting.notes.add("num_heard", 1)


def own_name() -> str:
    """Of this process among all, also of two that say one rank."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _set_interface(meeting: Meeting) -> None:
    """Let gloo talk by the interface of the meeting: by itself it takes the machine's name, often the loopback's."""
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_of(meeting.own_address)) not in (None, "lo"):
        os.environ["GLOO_SOCKET_IFNAME"] = str(name)


def _named(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:NUM_NAMED])) + (
        f" and {len(ranks) - NUM_NAMED} more" if ranks[NUM_NAMED:] else ""
    )
    return f"process{'es' if len(ranks) > 1 else ''} {shown}"


def _strange(place: Place) -> str:
    return "" if is_own_address(place.host) else f", which is no address of this machine ({socket.gethostname()})"


def _speaks_for_its_machine() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _say(text: str) -> None:
    sys.stderr.write(f"llava-moe: {visible(text)}\n")
    sys.stderr.flush()
