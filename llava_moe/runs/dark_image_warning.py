"""A stage's steps watched for images that come out nearly black: said at the first, and counted at the end."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

from rich.console import Console

from llava_moe.data.images.deep_values import MOST_KEPT, DarkImage
from llava_moe.data.stream import Step, StepStream
from llava_moe.runs.image_reading import tell_dark
from llava_moe.train.engine import Engine


@dataclass
class WatchedStream:
    """A stream whose steps pass as they are.

    Attributes:
        met: this rank's images, by name.
    """

    stream: StepStream
    console: Console
    met: dict[str, DarkImage] = field(default_factory=dict)

    def steps_in_epoch(self, epoch: int) -> int:
        """See :class:`StepStream`."""
        return self.stream.steps_in_epoch(epoch)

    def iterate(self, epoch: int, first_step: int = 0) -> Generator[Step, None, None]:
        """See :class:`StepStream`; the first image is told of at once, while there is time to stop."""
        with closing(self.stream.iterate(epoch, first_step)) as steps:
            for step in steps:
                if step.dark and not self.met:
                    tell_dark(step.dark[:1], self.console)
                for one in step.dark:
                    if len(self.met) < MOST_KEPT:
                        self.met.setdefault(one.name, one)
                yield step

    def tell(self, engine: Engine) -> None:
        """How many there were, on all ranks; nothing where the first was the only one."""
        met = [one for share in engine.gather([*self.met.values()]) for one in share]
        if len({one.name for one in met}) > 1 or not self.met:
            tell_dark(met, self.console)
