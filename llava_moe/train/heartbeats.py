"""A process that stands still is named: by signs of life outside the collectives, in which the others wait for it.

Each process writes where it is into the store by which the processes met. The first one reads all, and where nothing
has moved for too long, it tells who does not come, and ends them all.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from llava_moe.text.structured_text import parse_json
from llava_moe.train.pulse import Place, Pulse

NUM_FRAMES, NUM_NAMES = 6, 4
NameSamples = Callable[[int, int], list[str]]


@dataclass(frozen=True)
class Beat:
    """What a process wrote last.

    Attributes:
        number: of its signs of life; one that stands still altogether writes no new one.
        age: seconds since it began the phase that it is in.
        samples, stack: of one that has stood in it for long.
    """

    host: str
    pid: int
    number: int
    phase: str
    step: int
    waits: bool
    patience: float
    age: float
    samples: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()

    @staticmethod
    def read(text: bytes) -> Beat:
        """What :meth:`written` gave."""
        fields: dict[str, Any] = parse_json(text)
        return Beat(**fields | {key: tuple(fields[key]) for key in ("samples", "stack")})

    def written(self) -> str:
        """It as text."""
        return json.dumps(self.__dict__)


def stalled(beats: Mapping[int, Beat], silent: Mapping[int, float], seconds: float, world: int) -> str | None:
    """Who keeps the others waiting, in a line; None while somebody moves.

    Args:
        beats: of each process that has begun to train.
        silent: seconds since each wrote something new.
        seconds: for how long one may stand in one phase.
    """
    mute = [rank for rank in beats if silent[rank] > seconds]
    stuck = [rank for rank, beat in beats.items() if rank not in mute and beat.age > seconds * beat.patience]
    if not mute and not stuck:
        return None
    # Those that work, and stand still; where all wait for others, those whose meeting is another than most wait at.
    late = mute or [rank for rank in stuck if not beats[rank].waits]
    if not late:
        if len(stuck) < world:
            return None  # Who they wait for works still, has yet to begin, or is silent for a shorter time.
        places = [(beats[rank].step, beats[rank].phase) for rank in stuck]
        usual = max(set(places), key=places.count)
        late = [rank for rank, place in zip(stuck, places, strict=True) if place != usual] or stuck
    return "; ".join(_told(rank, beats[rank], silent[rank] if rank in mute else None) for rank in late[:NUM_NAMES])


def _told(rank: int, beat: Beat, silent: float | None) -> str:
    who = f"process {rank} (pid {beat.pid} on {beat.host})"
    where = f"in {beat.phase} at step {beat.step + 1}"
    samples = f", samples {', '.join(beat.samples)}" if beat.samples else ""
    if silent is not None:
        return f"{who} gives no sign of life for {silent:.0f} s; it was {where}{samples}"
    stack = f", at {' < '.join(beat.stack)}" if beat.stack else ""
    return f"{who} stands still for {beat.age:.0f} s {where}{samples}{stack}"


@dataclass
class Heartbeats:
    """Writes this process's signs of life and, in the first process, reads those of all.

    Attributes:
        name: of the training: others of the same processes have signs of their own.
        seconds: for how long a process may stand in one phase.
        name_samples: the samples of a step, by its epoch and its number there, as a person finds them.
        give_up: called in every process where one stands still, with the line of it in the one that tells; it ends the
            process.
    """

    name: str
    rank: int
    world: int
    seconds: float
    pulse: Pulse
    name_samples: NameSamples
    give_up: Callable[[str | None], None]
    _over: threading.Event = field(default_factory=threading.Event)
    _heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    _named: tuple[float, tuple[str, ...]] = (0.0, ())
    _threads: tuple[threading.Thread, ...] = ()
    _answered: float = 0.0

    def __enter__(self) -> Heartbeats:
        self._store = _own_store(self.name, self.seconds)
        self.pulse.at("starting")
        self._answered = time.monotonic()
        # The first one before the first step: one that stands still there is known.
        self._store.set(f"beat/{self.rank}", self._beat(0, None).written())
        self._threads = tuple(threading.Thread(target=do, daemon=True) for do in (self._watch, self._watch_the_store))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)

    @property
    def _interval(self) -> float:
        return min(5.0, self.seconds / 6)

    def _is_over(self) -> bool:
        """Wait for an interval; whether the training has ended in it."""
        before = time.monotonic()
        is_over = self._over.wait(self._interval)
        if time.monotonic() - before > max(3 * self._interval, 5.0):
            # The job was suspended, and has stood still with all its processes: time begins again for each.
            self.pulse.since = self._answered = time.monotonic()
            self._heard = {}
        return is_over

    def _watch_the_store(self) -> None:
        # A store whose process stands still leaves who asks it waiting: it is asked on the other thread.
        while not self._is_over():
            if time.monotonic() - self._answered > self.seconds + 3 * self._interval:
                told = "the store that all processes met by does not answer (process 0, or the launcher, keeps it)"
                self.give_up(told if self.rank == 1 else None)
                return

    def _watch(self) -> None:
        main, number = threading.main_thread().ident, 0
        while not self._is_over():
            number += 1
            try:
                self._store.set(f"beat/{self.rank}", self._beat(number, main).written())
                if self._store.check(["stalled"]):
                    self.give_up(None)  # who found it tells it
                    return
                if told := self._judge():
                    self._store.set("stalled", told)
                    self._over.wait(2 * self._interval)  # the others see it and end without a word
                    self.give_up(told)
                    return
            except (RuntimeError, dist.DistError):
                # The process that keeps the store has gone, and has said why; so will what trains here, in a moment.
                if not self._over.wait(max(10.0, 2 * self._interval)):
                    self.give_up("the process that keeps the store of all is gone: its own output says why")
                return
            self._answered = time.monotonic()

    def _beat(self, number: int, main: int | None) -> Beat:
        place, since = self.pulse.place, self.pulse.since
        age = time.monotonic() - since
        stack: tuple[str, ...] = ()
        samples: tuple[str, ...] = ()
        if age > 0.6 * self.seconds * place.patience and not place.waits:
            frame = sys._current_frames().get(main or 0)
            stack = tuple(_short(one) for one in reversed(traceback.extract_stack(frame)[-NUM_FRAMES:]))
            samples = self._names(place, since)
        facts = (socket.gethostname(), os.getpid(), number, place.phase, place.step, place.waits, place.patience, age)
        return Beat(*facts, samples, stack)

    def _names(self, place: Place, since: float) -> tuple[str, ...]:
        """Of the samples at a place, once for each: they are looked up where the data lie."""
        if place.index is None:
            return ()
        if self._named[0] != since:
            try:
                names = self.name_samples(place.epoch, place.index)
            except Exception as error:  # whatever keeps them from being named: the process that stands still is named
                names = [f"not to be read ({type(error).__name__})"]
            more = [f"{len(names) - NUM_NAMES} more"] if len(names) > NUM_NAMES else []
            self._named = (since, (*names[:NUM_NAMES], *more))
        return self._named[1]

    def _judge(self) -> str | None:
        """Who stands still, as the first process sees it; the second one looks after the first."""
        if self.rank > 1:
            return None
        # The other thread may begin again with an empty one.
        now, heard, beats = time.monotonic(), self._heard, {}
        for rank in range(self.world) if self.rank == 0 else (0,):
            if not self._store.check([f"beat/{rank}"]):
                continue
            beats[rank] = beat = Beat.read(self._store.get(f"beat/{rank}"))
            if heard.get(rank, (None, 0))[0] != beat.number:
                heard[rank] = (beat.number, now)
        silent = {rank: now - heard[rank][1] for rank in beats}
        if self.rank == 1:
            # Later than the first process would tell it of others, and of its silence alone.
            beats = {rank: beat for rank, beat in beats.items() if silent[rank] > self.seconds + 3 * self._interval}
        return stalled(beats, silent, self.seconds, self.world)


def _short(frame: traceback.FrameSummary) -> str:
    return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.name}"


def _own_store(name: str, seconds: float) -> Any:
    """A connection of its own to the store that the launcher's variables name: the collectives hold theirs."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patience = timedelta(seconds=max(10.0, seconds))
    store = dist.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=False, wait_for_workers=False, timeout=patience
    )
    # A launcher that starts processes again keeps its store: the last words of those before are no sign of life.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"llava_moe/heartbeats/{start}/{name}", store)  # type: ignore[attr-defined]
