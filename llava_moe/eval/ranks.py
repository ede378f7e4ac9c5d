"""The processes that answer a benchmark together: who asks what, and where they meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from llava_moe.errors import LostRankError, ReportedByRankZeroError, UserError

Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Ranks:
    """This process among those that answer together.

    Attributes:
        rank, world: its number, and how many there are.
        group: torch's process group that objects travel in; None: the default one.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def share(self, items: Sequence[Value]) -> list[Value]:
        """This process's part: every ``world``-th item; the parts of all are the items, each once."""
        return list(items[self.rank :: self.world])

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, in all of them.

        Raises:
            UserError: ``make`` raised it: in the first process.
            ReportedByRankZeroError: the same, in the others.
        """
        if self.world == 1:
            return make()
        box: list[Any] = [None, True]
        failure: UserError | None = None
        if self.is_first:
            try:
                box = [make(), True]
            except UserError as error:
                box, failure = [None, False], error
        self._meet(lambda: dist.broadcast_object_list(box, src=0, group=self.group))
        if failure is not None:
            raise failure
        if not box[1]:
            raise ReportedByRankZeroError
        value: Value = box[0]
        return value

    def together(self, make: Callable[[], Value]) -> Value:
        """What this process makes, once all have made theirs.

        Raises:
            UserError: ``make`` raised it, in the first of those where it did.
            ReportedByRankZeroError: the same, in all others.
        """
        if self.world == 1:
            return make()
        failure: UserError | None = None
        try:
            value = make()
        except UserError as error:
            failure = error
        failed = [rank for rank, has_failed in enumerate(self.gather(failure is not None)) if has_failed]
        if not failed:
            return value
        if failure is not None and failed[0] == self.rank:
            raise failure
        raise ReportedByRankZeroError

    def gather(self, value: Other) -> list[Other]:
        """The values of all processes, by rank, in all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        self._meet(lambda: dist.all_gather_object(values, value, group=self.group))
        return values

    def _meet(self, collective: Callable[[], None]) -> None:
        try:
            collective()
        except RuntimeError as error:
            # Gloo's words for a peer that is gone; the peer has said why, or was killed.
            raise LostRankError(
                f"another process has stopped ({str(error).splitlines()[0][:120]}): its own output says why; what is "
                "made so far is kept, run the same command again"
            ) from error


ALONE = Ranks()
