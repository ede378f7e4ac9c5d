"""Whether a piece of work that others wrote ends: tried in a process of its own, which is killed when it does not."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress


def ends_within(work: Callable[[], object], seconds: float, num_bytes: int) -> bool:
    """Whether ``work`` ends in time and in so much more memory than there is taken now; how it ends does not count.

    Args:
        work: runs in a fork; nothing of it comes back. It must not touch a GPU.
    """
    child = os.fork()
    if child == 0:
        _work_and_die(work, num_bytes)
    until, step = time.monotonic() + seconds, 0.001
    ended = status = 0
    try:
        while not ended and time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                time.sleep(step)
                step = min(2 * step, 0.05)
    finally:
        # A signal that ends the wait leaves nothing behind that goes on without end.
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return bool(ended) and os.waitstatus_to_exitcode(status) == 0


def _work_and_die(work: Callable[[], object], num_bytes: int) -> None:
    status = 0  # an exception is an end too: the caller meets it again, and tells it
    try:
        # Where the system does not say what is taken, time alone is the bound; a limit that is lower already holds.
        with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + num_bytes
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        work()
    except (MemoryError, RecursionError):
        status = 1
    finally:
        os._exit(status)
