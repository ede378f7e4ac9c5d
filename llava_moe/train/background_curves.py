"""What viewers of curves share: numbers go to a library that may wait or fail, and training goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llava_moe.train.background_calls import BackgroundCalls
from llava_moe.train.log import StepRecord, scalars_of

Tell = Callable[[str], None]


class BackgroundCurves(ABC):
    """Curves of a run in a viewer of another library.

    All calls are made by a thread of their own: one that waits or fails keeps no step from training. After a failure
    a line says so and nothing more is sent; ``log.jsonl`` has every number.

    Args:
        name: of the viewer, in the lines it prints.
        tell: prints a line.
    """

    def __init__(self, name: str, tell: Tell) -> None:
        self._name, self.tell = name, tell
        self.calls = BackgroundCalls(name)
        # What the library gave to write to; None once it is given up.
        self._viewer: Any = None

    @staticmethod
    @abstractmethod
    def _add(viewer: Any, numbers: Mapping[str, float], step: int) -> None:
        """Hand the numbers of a step to the library; called in the thread."""

    def write(self, record: StepRecord) -> None:
        """Send the numbers of a step, named as :func:`~llava_moe.train.log.scalars_of` names them."""
        self._send(scalars_of(record), record.fields["step"])

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Send the scores of a validation after ``step``, each as ``validation/<name>``."""
        self._send({f"validation/{name}": value for name, value in scores.items()}, step)

    def _send(self, numbers: Mapping[str, float], step: int) -> None:
        self._notice()
        if self._viewer is not None:
            self.calls.send(partial(self._add, self._viewer, numbers, step))

    def _notice(self) -> None:
        """Give up on a viewer that failed or does not answer."""
        trouble = self.calls.trouble()
        if trouble is not None and self._viewer is not None:
            self.tell(
                f"{self._name} stopped ({trouble}): its curves end here; training goes on, log.jsonl has every number"
            )
            self._viewer = None
            self.calls.forget()
