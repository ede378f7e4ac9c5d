"""Processes that train together watched for one that stands still, which would keep the others waiting."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from llava_moe.runs.meeting import meeting_name
from llava_moe.runs.processes import Processes
from llava_moe.text.escape_control import visible
from llava_moe.train.heartbeats import Heartbeats, NameSamples
from llava_moe.train.pulse import UNLIMITED, Pulse

STALLED = 1
_telling = threading.Lock()


def is_watched(processes: Processes, seconds: float) -> bool:
    """Whether there is somebody to wait for, and a time to wait."""
    return processes.world > 1 and seconds > 0


@contextmanager
def watched_for_stalls(
    processes: Processes,
    name: str,
    seconds: float,
    pulse: Pulse,
    name_samples: NameSamples,
    standing: Callable[[], str],
) -> Iterator[None]:
    """Within, a process that stands still for ``seconds`` in a step is named, and all end with status 1.

    What the training thread waits for may never come: nothing but the end of the process takes it out of there.
    """

    def give_up(told: str | None) -> None:
        # Two may watch at once; it is never given back.
        if not _telling.acquire(blocking=False):
            return
        if told is not None:
            sys.stderr.write(f"llava-moe: {visible(told)}; {standing()}\n")
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STALLED)

    beats = Heartbeats(
        f"{meeting_name()}/{name}", processes.rank, processes.world, seconds, pulse, name_samples, give_up
    )
    with beats if is_watched(processes, seconds) else nullcontext():
        yield


@contextmanager
def watched_for_silence(processes: Processes, seconds: float, standing: Callable[[], str]) -> Iterator[None]:
    """Within, a process of which nothing is heard for ``seconds`` is named, and all end with status 1.

    What they do there, such as to read records, may take any time.
    """
    pulse = Pulse()
    with watched_for_stalls(processes, "the whole run", seconds, pulse, lambda *_: [], standing):
        pulse.at("what comes before the steps", patience=UNLIMITED)
        yield
