"""The words of ``llava-moe analyze``: the instrument, then its settings, judged before anything heavy is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_moe.commands.find_instrument import find, summaries
from llava_moe.config.limits import FilePath, Limit, OneOf, OrNull, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.text.did_you_mean import did_you_mean


@dataclass(frozen=True)
class Checkpoint:
    """One of a run's checkpoints, by its step or by one of ``names``."""

    names: tuple[str, ...] = ("last", "best")

    def admits(self, value: Any) -> bool:
        return OneOf(self.names).admits(value) or Whole(0).admits(value)

    def describe(self) -> str:
        return f"{', '.join(self.names)}, or the number of a step"


ON_RECORDS: dict[str, Limit] = {
    "run": OrNull(FilePath()),
    "checkpoint": Checkpoint(),
    "by": OneOf(("domain", "task")),
    "split": OrNull(Text()),
    "samples": Whole(0),
    "seed": Whole(0),
    "dtype": OrNull(OneOf(("fp32", "bf16"))),
    "num_threads": OrNull(Whole(1)),
    "out": OrNull(FilePath()),
}
"""The settings that every instrument has which measures on held-out records of one run."""


def main(words: Sequence[str]) -> int:
    """Run the instrument that the first word names; without a word, list them."""
    if not words:
        lines = [f"  {name:<14}{summary}" for name, summary in summaries().items()]
        told = "\n".join(["llava-moe analyze INSTRUMENT run=FOLDER [key=value ...]", "", *lines])
        sys.stdout.write(f"{told}\n\nllava-moe analyze INSTRUMENT --help tells more.\n")
        return 0
    name, rest = words[0], words[1:]
    known = list(summaries())
    if name not in known:
        meant = did_you_mean(name, known)
        raise UserError(f"analyze {name} is not an instrument{meant}: there is {', '.join(known)}")
    from llava_moe.config.hydra_compose import resolved, run_composed

    primary = f"analyze_{name}"
    instrument = find(name)

    def begin(plain: dict[str, Any]) -> int:
        # Of several processes one alone speaks, once they have met.
        if os.environ.get("WORLD_SIZE", "1") == "1":
            instrument.judge(plain)
        from llava_moe.commands.analyze import analyze

        return analyze(plain, instrument)

    return run_composed(primary, rest, lambda config, _: begin(resolved(config, primary)))


def judge_run(instrument: str, plain: Mapping[str, Any], limits: Mapping[str, Limit]) -> None:
    """Hold the settings of an instrument of one run against their limits, and look whether the run is there.

    Raises:
        UserError: the first setting that cannot be followed.
    """
    from llava_moe.files.checkpoints import newest_checkpoint
    from llava_moe.runs.out_folder import refuse_unwritable

    check_settings(plain, limits)
    if plain["run"] is None:
        raise UserError(f"analyze {instrument} needs run=: add run=runs/NAME")
    run = Path(plain["run"])
    newest = newest_checkpoint(run)
    # Before hours of work, not after its first piece.
    refuse_unwritable(
        Path(plain["out"]) if plain["out"] is not None else (newest.parent.parent if run == newest else run) / "analyze"
    )
