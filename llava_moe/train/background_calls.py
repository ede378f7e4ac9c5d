"""Calls into a library that may wait or fail, made in their order by a thread that no training waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any

# Calls that may wait for an answer before none is expected any more.
MOST_WAITING = 10_000


class BackgroundCalls:
    """One thread and its calls. No process waits for it at its end, as it would for an executor's.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._sent: deque[Future[Any]] = deque()
        Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """What the call gives or raises, once it is made."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def within(self, call: Callable[[], Any], seconds: float) -> tuple[Any, BaseException | None]:
        """What the call gives, and what went wrong with it; it has a time to end in."""
        asked = self.submit(call)
        done, _ = wait([asked], timeout=seconds)
        if not done:
            return None, TimeoutError(f"no answer in {seconds:g} s")
        error = asked.exception()
        return (None, error) if error else (asked.result(), None)

    def send(self, call: Callable[[], Any]) -> None:
        """Have a call made whose answer nobody needs; :meth:`trouble` tells where it failed."""
        self._sent.append(self.submit(call))

    def trouble(self) -> str | None:
        """Why the calls that were sent are worth no more of them; None where all is well."""
        while self._sent and self._sent[0].done():
            if error := self._sent.popleft().exception():
                return named(error)
        return f"{MOST_WAITING:,} steps wait to be taken" if len(self._sent) > MOST_WAITING else None

    def forget(self) -> None:
        """Hear no more of the calls that were sent."""
        self._sent.clear()

    def end(self) -> None:
        """Let the thread end behind the calls that it has."""
        self._calls.put(None)

    def _work(self) -> None:
        while (asked := self._calls.get()) is not None:
            future, call = asked
            try:
                future.set_result(call())
            except BaseException as error:  # of the call: its future raises it
                future.set_exception(error)


def named(error: BaseException) -> str:
    """An error in a line: its kind and what it says."""
    return " ".join(f"{type(error).__name__} {error}".split())[:160]
