"""``plan probe=true``: a few real steps in a folder that is thrown away, for their real time and memory."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from llava_moe.config.hydra_compose import as_yaml
from llava_moe.files.our_files import read_objects
from llava_moe.run_config import RunConfig
from llava_moe.runs.processes import Processes
from llava_moe.runs.stage import train_stage
from llava_moe.runs.stages import Stage
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole

STEPS = 20
# The first steps make optimizer state, warm caches and start data workers.
WARM_UP = 5


@dataclass(frozen=True)
class Probed:
    """What was measured.

    Attributes:
        seconds_per_step: mean over the steps after the first few.
        tokens_per_step: mean over the same steps.
        peak: bytes as ``log.jsonl`` tells them: of tensors on a GPU, of the whole process on a CPU.
    """

    seconds_per_step: float
    tokens_per_step: float
    peak: int
    num_steps: int


def probe_stage(stage: Stage) -> Probed:
    """Train the stage's first steps on one device of this machine.

    Raises:
        UserError: whatever training would refuse; out of memory among it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = copy.deepcopy(dict(stage.config.plain))
    plain["train"] |= {"max_steps": STEPS, "save_every": 0}
    plain["log"] |= {"every": 1, "tensorboard": False, "wandb": "off"}
    plain["eval"] |= {"every": 0, "during": [], "best": None}
    plain["parallel"]["engine"] = "local"
    with (
        tempfile.TemporaryDirectory(prefix="llava-moe-probe-") as place,
        StopSignals(lambda: "nothing is kept of a probe") as stop_signals,
    ):
        folder = Path(place) / "run"
        processes = Processes(0, 1, device, "local")
        train_stage(
            RunConfig.of(plain),
            as_yaml(plain),
            folder,
            stage.title,
            processes,
            VisibleConsole(quiet=True),
            stop_signals,
        )
        records = read_objects(folder / "log.jsonl", "run it again")
    timed = records[WARM_UP:] or records
    return Probed(
        seconds_per_step=sum(record["seconds"] for record in timed) / len(timed),
        tokens_per_step=sum(record["tokens"] for record in timed) / len(timed),
        peak=max(record["peak_memory_bytes"] for record in records),
        num_steps=len(records),
    )
