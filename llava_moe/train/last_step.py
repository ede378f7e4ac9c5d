"""The last whole step of a run, kept so that whatever ends the training loses nothing that was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llava_moe.errors import ReportedByRankZeroError, UserError
from llava_moe.train.checkpoint import random_state, set_random_state
from llava_moe.train.state import RunState


class LastWholeStep:
    """The state that weights and optimizer are in, with the random numbers that the next step begins with.

    Args:
        save: writes a checkpoint of a state, or begins to; all ranks call it.
        settle: waits until it stands; all ranks call it.

    Attributes:
        state: the last step whose update is whole.
        has_failed_together: a checkpoint could not be written, and all ranks stand behind that.
    """

    def __init__(
        self, state: RunState, save: Callable[[RunState], None], settle: Callable[[], None] = lambda: None
    ) -> None:
        self.state = state
        self._save, self._settle = save, settle
        self.has_failed_together = False
        self._random = random_state()
        self._is_whole = True
        self._saved_step = state.step

    def before_update(self) -> None:
        """From here to :meth:`arrive` the weights are those of no step."""
        self._is_whole = False

    def keep(self) -> None:
        """The update was left out: the weights are still those of ``state``."""
        self._is_whole = True

    def arrive(self, state: RunState) -> None:
        """The update is whole: this is the state now."""
        self.state, self._random, self._is_whole = state, random_state(), True

    def turn_epoch(self) -> None:
        """The next step is the first of the next epoch, whose readers are forked: not beside a thread that writes."""
        self.settle()
        self.state = replace(self.state, epoch=self.state.epoch + 1, epoch_step=0)

    def save(self) -> None:
        """Save the state, tried once for each step; what is being written stands first."""
        self.settle()
        self._saved_step = self.state.step
        self._together(lambda: self._save(self.state))

    def settle(self) -> None:
        """Wait until what is being written stands; all ranks call it."""
        self._together(self._settle)

    def _together(self, do: Callable[[], None]) -> None:
        try:
            do()
        except (UserError, ReportedByRankZeroError):
            # All ranks have met over it.
            self.has_failed_together = True
            raise

    def rescue(self, error: Exception) -> None:
        """Save what was trained before ``error``, if it was not and the disk lets it; else the error has a note why.

        Weights that are halfway between two steps are not saved.
        """
        if self.state.step == self._saved_step or not self._is_whole:
            return
        # A step that broke off has drawn some: started again, it must draw the same.
        set_random_state(self._random)
        try:
            self.save()
            self.settle()
        except UserError as failure:
            error.add_note(str(failure))
        except ReportedByRankZeroError:
            return
