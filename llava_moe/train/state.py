"""How far a run has come: all that resuming needs beside weights, optimizer and random numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from llava_moe.files.checkpoints import STATE_REMEDY
from llava_moe.files.our_files import read_object


@dataclass(frozen=True)
class RunState:
    """Position of a run.

    Attributes:
        step: optimizer steps taken.
        epoch, epoch_step: the epoch that the next step belongs to, and its number there.
        tokens_seen, samples_seen: real tokens and examples so far, over all ranks.
        nonfinite_steps: steps left out because of a NaN or infinite loss.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    tokens_seen: int = 0
    samples_seen: int = 0
    nonfinite_steps: int = 0

    def write(self, path: Path) -> None:
        """Write it as one JSON object.

        Raises:
            OSError: the disk does not take it.
        """
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> RunState:
        """Read what :meth:`write` wrote.

        Raises:
            UserError: the file is damaged or of another shape.
        """
        told = read_object(path, STATE_REMEDY, dict.fromkeys((one.name for one in fields(RunState)), int))
        return RunState(**{one.name: told[one.name] for one in fields(RunState)})
