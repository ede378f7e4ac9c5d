"""Where ranks learn of each other's troubles and stops, so that all end at one step and can save it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from llava_moe.errors import INTERRUPTED, STOPPED, ReportedByRankZeroError, StoppedBySignalError
from llava_moe.train.engine import Engine

Value = TypeVar("Value")
STATUSES = (STOPPED, INTERRUPTED)
"""What a signal may ask a run to exit with, the stronger last."""


class RankErrors:
    """Keeps an error of this rank until all meet.

    Attributes:
        is_together: all ranks are at the same point: there is one, or they have met over an error.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_together = engine.world == 1
        self._failure: Exception | None = None

    def attempt(self, do: Callable[[], Value]) -> Value | None:
        """What ``do`` gives; None where it failed, which the next :meth:`agree` raises."""
        try:
            return do()
        except StoppedBySignalError:
            # All ranks have agreed on it, or there is one.
            raise
        except Exception as error:
            self._failure = self._failure or error
            return None

    def agree(self) -> None:
        """Go on where no rank has failed; all ranks call it.

        Raises:
            Exception: what failed here, in the first rank where something did.
            ReportedByRankZeroError: another rank has failed, and says why.
        """
        failed = [0.0] * self.engine.world
        failed[self.engine.rank] = float(self._failure is not None)
        failed = self._sum(failed)
        if any(failed):
            self.is_together = True
            is_first = next(rank for rank, count in enumerate(failed) if count) == self.engine.rank
            raise self._failure if is_first and self._failure is not None else ReportedByRankZeroError

    def agree_on(self, do: Callable[[], Value]) -> Value:
        """What ``do`` gives, once all ranks have theirs; raises as :meth:`agree` does."""
        value = self.attempt(do)
        self.agree()
        return value  # type: ignore[return-value]  # None only where agree has raised, or where do gave it

    def strongest(self, status: int) -> int:
        """The strongest of the statuses that ranks were asked to exit with; 0 where none was."""
        return status_of(self._sum(flags_of(status)))

    def _sum(self, values: Sequence[float]) -> list[float]:
        if self.engine.world == 1:
            # Not by way of the device: to ask it for a number is to wait for it.
            return list(values)
        summed = self.engine.sum(torch.tensor(values, dtype=torch.float64, device=self.engine.device))
        return [float(value) for value in summed]


def flags_of(status: int) -> list[float]:
    """A status as numbers that can be added up over ranks."""
    return [float(status == one) for one in STATUSES]


def status_of(flags: Sequence[float]) -> int:
    """The strongest status that a sum of :func:`flags_of` holds."""
    return max((one for one, count in zip(STATUSES, flags, strict=True) if count), key=STATUSES.index, default=0)
