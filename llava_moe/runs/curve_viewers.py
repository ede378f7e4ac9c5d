"""TensorBoard and Weights & Biases (``log.tensorboard``, ``log.wandb``): settled before anything is built."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from llava_moe.errors import UserError
from llava_moe.run_config import LogConfig, RunConfig
from llava_moe.train.log import ScoreSink
from llava_moe.train.tensorboard import TensorBoard
from llava_moe.train.weights_and_biases import WeightsAndBiases, settle_mode


def settle_viewers(stages: Sequence[RunConfig]) -> tuple[list[RunConfig], list[str]]:
    """The configurations with ``log.wandb`` settled, and the lines to print.

    The first process of a launcher alone writes curves: what the others' machines have is not asked.

    Args:
        stages: those that will train.

    Raises:
        UserError: a viewer was asked for that is not installed, or curves online where they cannot go.
    """
    if os.environ.get("RANK", "0") != "0":
        return [*stages], []
    if any(one.log.tensorboard for one in stages) and importlib.util.find_spec("tensorboard") is None:
        raise UserError("log.tensorboard=true needs TensorBoard: pip install 'llava-moe[train]'")
    settled = {asked: settle_mode(asked) for asked in dict.fromkeys(one.log.wandb for one in stages)}
    configs = [one.changed(log={**one.plain["log"], "wandb": settled[one.log.wandb][0]}) for one in stages]
    return configs, [note for _, note in settled.values() if note is not None]


def open_viewers(log: LogConfig, folder: Path, last_step: int, console: Console) -> list[ScoreSink]:
    """The viewers of a stage whose settings :func:`settle_viewers` has settled.

    Args:
        last_step: the step that the run goes on from; 0 at its start.

    Raises:
        UserError: TensorBoard cannot be imported.
    """
    sinks: list[ScoreSink] = []
    tell = partial(console.print, highlight=False, markup=False)
    if log.tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard", last_step, tell))
    if log.wandb in ("online", "offline"):
        sinks.append(WeightsAndBiases(folder, folder.name, log.wandb, log.project, tell))
    return sinks
