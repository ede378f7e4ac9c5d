"""Ctrl-C, SIGTERM and SIGUSR1: how a person and a batch system ask a command to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llava_moe.errors import INTERRUPTED, STOPPED, StoppedBySignalError
from llava_moe.text.escape_control import visible

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
Say = Callable[[str], None]

# A launcher passes on to its processes the Ctrl-C that the terminal has told them already.
_SECONDS_OF_ONE_CTRL_C = 2.0
# Leaving at once waits no longer than this for a disk that does not answer.
_PATIENCE = 0.5
_SHOW_CURSOR = b"\x1b[?25h\r\n"


class StopSignals:
    """Answers the signals while it is entered: at once, or, where that would lose work, when it is next asked.

    The second Ctrl-C ends the process at once, whatever it does: what lies on the disk is whole at any moment.

    Args:
        standing: tells what of the work is kept, and how to go on; asked when a signal ends the process.

    Attributes:
        asked: the first signal that came; None before.
    """

    def __init__(self, standing: Callable[[], str]) -> None:
        self.asked: signal.Signals | None = None
        self.standing = standing
        self._waits = False
        self._say: Say | None = None
        self._handlers: dict[int, Any] = {}
        self._wire: tuple[int, int] | None = None
        self._wakeup = -1

    def __enter__(self) -> StopSignals:
        for number in NUMBERS:
            # What a shell starts in the background is deaf to Ctrl-C, and stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._stop)
        # Python runs handlers between two lines of Python only: a thread hears of a signal while a device computes,
        # another process is waited for or a disk hangs.
        self._wire = os.pipe()
        for end in self._wire:
            os.set_blocking(end, end == self._wire[0])
        self._wakeup = signal.set_wakeup_fd(self._wire[1], warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._wire[0],), daemon=True, name="second Ctrl-C").start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        assert self._wire is not None
        # The thread ends at the pipe's end and closes its own side.
        os.close(self._wire[1])

    @property
    def status(self) -> int:
        """The exit status that the first signal asks for."""
        return INTERRUPTED if self.asked is signal.SIGINT else STOPPED

    @contextmanager
    def deferred(self, say: Say | None = None) -> Iterator[None]:
        """While this lasts a signal only sets ``asked``; the caller looks, and saves before it stops.

        Args:
            say: is told, inside a signal handler, that the stop was heard.
        """
        self._waits, self._say = True, say
        try:
            yield
        finally:
            self._waits, self._say = False, None

    def _stop(self, number: int, _: object) -> None:
        is_first, self.asked = self.asked is None, self.asked or signal.Signals(number)
        if not self._waits:
            if number == signal.SIGINT:
                raise KeyboardInterrupt(_joined("interrupted", self.standing()))
            raise StoppedBySignalError(_joined(f"stopped by {signal.Signals(number).name}", self.standing()))
        if is_first and self._say is not None:
            again = "; Ctrl-C again leaves at once" if number == signal.SIGINT else ""
            self._say(f"stopping after this step{again}")

    def _watch(self, wire: int) -> None:
        apart = _SECONDS_OF_ONE_CTRL_C if "LOCAL_RANK" in os.environ else 0.0
        first: float | None = None
        while heard := os.read(wire, 64):
            for _ in range(heard.count(signal.SIGINT)):
                if first is None:
                    first = time.monotonic()
                elif time.monotonic() - first >= apart:
                    self._leave()
        os.close(wire)

    def _leave(self) -> None:
        for child in multiprocessing.active_children():
            child.kill()
        told: list[str] = []
        asking = threading.Thread(target=lambda: told.append(self.standing()), daemon=True)
        asking.start()
        asking.join(_PATIENCE)
        # Not what sys.stderr says: it denies it, for libraries not to send colours.
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
        if os.environ.get("RANK", "0") == "0":
            os.write(2, f"llava-moe: {visible(_joined('left at once', *told))}\n".encode())
        os._exit(INTERRUPTED)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
