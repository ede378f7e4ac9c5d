"""SIGTERM and SIGUSR1, by which batch systems ask a job to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llava_moe.errors import StoppedBySignalError

NUMBERS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Answers the signals while it is entered: at once, or, where that would lose work, when it is next asked.

    Attributes:
        asked: a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waits = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in NUMBERS:
            self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts a signal only sets ``asked``; the caller looks, and saves before it stops."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _stop(self, number: int, _: object) -> None:
        self.asked = True
        if not self._waits:
            raise StoppedBySignalError(f"stopped by {signal.Signals(number).name}; what was saved before stands")
