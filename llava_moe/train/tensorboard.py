"""TensorBoard beside a run (``log.tensorboard=true``), never in the way of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llava_moe.errors import UserError
from llava_moe.train.background_calls import BackgroundCalls, named
from llava_moe.train.log import StepRecord, scalars_of

# How long the begin and the end of a run wait for a disk that does not answer.
PATIENCE_SECONDS = 30.0


class TensorBoard:
    """Scalars for TensorBoard.

    All calls are made by a thread of their own: TensorBoard's writer raises where its disk is full, and where its own
    thread has ended on that, a call may wait forever. After a failure a line says so and nothing more is written;
    ``log.jsonl`` has every number.

    Args:
        folder: where the event files are written.
        last_step: what a killed run wrote of later steps is hidden.
        tell: prints a line.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, last_step: int, tell: Callable[[str], None]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("log.tensorboard=true needs TensorBoard: pip install 'llava-moe[train]'") from error
        self._tell = tell
        self._calls = BackgroundCalls("tensorboard")
        # At the start, too: what a run that was killed before its first checkpoint wrote is none of this one's.
        begin = partial(SummaryWriter, str(folder), purge_step=last_step + 1 if last_step else 0)
        self._writer: Any
        self._writer, trouble = self._calls.within(begin, PATIENCE_SECONDS)
        if trouble:
            self._tell(f"tensorboard does not begin ({named(trouble)}): no curves there; log.jsonl has every number")

    def write(self, record: StepRecord) -> None:
        self._send(scalars_of(record), record.fields["step"])

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        self._send({f"validation/{name}": value for name, value in scores.items()}, step)

    def close(self) -> None:
        self._notice()
        if self._writer is not None and (trouble := self._calls.within(self._writer.close, PATIENCE_SECONDS)[1]):
            self._tell(f"tensorboard: its last curves were not written ({named(trouble)}); log.jsonl has every number")
        self._writer = None
        self._calls.end()

    def _send(self, numbers: Mapping[str, float], step: int) -> None:
        self._notice()
        if self._writer is not None:
            self._calls.send(partial(_add, self._writer, dict(numbers), step))

    def _notice(self) -> None:
        """Give up on a writer that failed or does not answer."""
        trouble = self._calls.trouble()
        if trouble is not None and self._writer is not None:
            self._tell(
                f"tensorboard stopped ({trouble}): its curves end here; training goes on, log.jsonl has every number"
            )
            self._writer = None
            self._calls.forget()


def _add(writer: Any, numbers: Mapping[str, float], step: int) -> None:
    for name, value in numbers.items():
        writer.add_scalar(name, value, step)
