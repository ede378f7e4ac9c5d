"""When checkpoints are written: beside the training, from a copy in memory, or in front of the next step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch

from llava_moe.errors import ReportedByRankZeroError
from llava_moe.train.checkpoint import Snapshot, WriteWeights, random_state, write_checkpoint
from llava_moe.train.engine import Engine
from llava_moe.train.state import RunState


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time; rank 0 writes, all ranks call what is said to need them all.

    No rank waits in a collective for a file: not before :meth:`settle`, or the next :meth:`save`.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        write_weights: WriteWeights,
        keep_last: int = 2,
        has_room: Callable[[], bool] = lambda: False,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Write nothing yet.

        Args:
            before_waiting: called where rank 0 begins to wait for a file.
            has_room: whether memory holds a copy of what is written, so that the training need not wait for it; asked
                on rank 0 at each checkpoint.
        """
        self._folder, self._engine, self._has_room = folder, engine, has_room
        self._write_weights, self._keep_last = write_weights, keep_last
        self._before_waiting = before_waiting
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def save(self, state: RunState, is_best: bool = False, before: Callable[[], None] = lambda: None) -> None:
        """Write a checkpoint of ``state``, or begin to; all ranks call it.

        Args:
            before: is done first; what it raises ends all, as what fails in writing.

        Raises:
            UserError: the disk is full or not writable, or the run's folder is gone, for this one or the one before.
            ReportedByRankZeroError: the same, on the other ranks.
        """
        self.join()
        if self._failure is None:
            self._attempt(before)
        self._agree(self._failure)
        random = self._engine.gather(random_state())
        states = self._engine.states()
        if self._engine.rank > 0:
            deque(states, maxlen=0)
        else:
            self._attempt(lambda: self._begin(Snapshot(state, states, random), is_best))
        self._agree(self._failure if self._thread is None else None)

    def _begin(self, snapshot: Snapshot, is_best: bool) -> None:
        try:
            if not self._has_room():
                self._before_waiting()
                self._write(snapshot, is_best)
                return
            # What the engine gives changes with the next step.
            held = [
                (name, {kind: one.to("cpu", copy=True) for kind, one in state.items()})
                for name, state in snapshot.states
            ]
        finally:
            # Whatever fails: the other ranks go through all of it.
            deque(snapshot.states, maxlen=0)
        copy = Snapshot(snapshot.position, held, snapshot.random)
        self._thread = threading.Thread(target=lambda: self._attempt(lambda: self._write(copy, is_best)), daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait for what is being written; all ranks call it. Raises as :meth:`save`."""
        self.join()
        self._agree(self._failure)

    def check(self) -> None:
        """Raise what has failed beside the training, without waiting; one rank alone may call it.

        Raises:
            UserError: as :meth:`save`.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.join()
            if (failure := self._failure) is not None:
                self._failure = None
                raise failure

    def join(self) -> None:
        """Wait for what is being written, and keep what failed for :meth:`settle`."""
        if self._thread is not None:
            self._before_waiting()
            self._thread.join()
            self._thread = None

    def _write(self, snapshot: Snapshot, is_best: bool) -> None:
        write_checkpoint(self._folder, snapshot, self._write_weights, self._keep_last, is_best)

    def _attempt(self, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # told where all ranks meet
            self._failure = error

    def _agree(self, failure: Exception | None) -> None:
        """Go on where rank 0 has not failed; all ranks call it."""
        num_failed = float(failure is not None)
        if self._engine.world > 1:
            told = torch.tensor([num_failed], dtype=torch.float64, device=self._engine.device)
            num_failed = float(self._engine.sum(told))
        if num_failed:
            self._failure = None
            raise failure or ReportedByRankZeroError
