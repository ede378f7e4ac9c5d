"""TensorBoard beside a run (``log.tensorboard=true``), never in the way of training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llava_moe.errors import UserError
from llava_moe.train.background_calls import named
from llava_moe.train.background_curves import BackgroundCurves, Tell

# How long the begin and the end of a run wait for a disk that does not answer.
PATIENCE_SECONDS = 30.0


class TensorBoard(BackgroundCurves):
    """Scalars for TensorBoard.

    TensorBoard's writer raises where its disk is full, and where its own thread has ended on that, a call may wait
    forever.

    Args:
        folder: where the event files are written.
        last_step: what a killed run wrote of later steps is hidden.
        tell: prints a line.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, last_step: int, tell: Tell) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("log.tensorboard=true needs TensorBoard: pip install 'llava-moe[train]'") from error
        super().__init__("tensorboard", tell)
        # At the start, too: what a run that was killed before its first checkpoint wrote is none of this one's.
        begin = partial(SummaryWriter, str(folder), purge_step=last_step + 1 if last_step else 0)
        self._viewer, trouble = self.calls.within(begin, PATIENCE_SECONDS)
        if trouble:
            self.tell(f"tensorboard does not begin ({named(trouble)}): no curves there; log.jsonl has every number")

    def close(self) -> None:
        """Write what was sent, within ``PATIENCE_SECONDS``; a line says where that failed."""
        self._notice()
        if self._viewer is not None and (trouble := self.calls.within(self._viewer.close, PATIENCE_SECONDS)[1]):
            self.tell(f"tensorboard: its last curves were not written ({named(trouble)}); log.jsonl has every number")
        self._viewer = None
        self.calls.end()

    @staticmethod
    def _add(viewer: Any, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            viewer.add_scalar(name, value, step)
