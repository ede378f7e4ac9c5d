"""The data of every stage, judged before the first trains: hours must not end at a later one's missing file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console

from llava_moe.assemble import encoder_of, model_spec_of
from llava_moe.data.stream import StepStream
from llava_moe.files.checkpoints import last_checkpoint
from llava_moe.run_config import RunConfig
from llava_moe.runs.processes import Processes
from llava_moe.runs.stage_data import open_data, open_quarantine
from llava_moe.runs.stage_validation import open_held_out
from llava_moe.runs.stages import Stage
from llava_moe.terminal.console import VisibleConsole
from llava_moe.train.folder import FolderLock, is_finished


def check_all_stages(stages: Sequence[Stage], processes: Processes, console: Console) -> None:
    """Read all that the later stages will train on and be measured on, as they will; what is read is kept.

    The first of the stages that are not finished reads its own before it trains. One process reads, the others wait.

    Raises:
        UserError: a tokenizer or a file is missing, too much of a source is bad, a sample does not fit a row.
        ReportedByRankZeroError: the same, in all processes but the first.
    """
    later = [stage for stage in stages if not is_finished(stage.folder, stage.config.plain)][1:]
    planned = {str(stage.folder) for stage in stages}

    def judge() -> None:
        for stage in later:
            # A stage may start from one before it, which has yet to run; data does not depend on it.
            follows = stage.config.init_from in planned
            _judge(stage, stage.config.changed(init_from=None) if follows else stage.config, console)

    if later:
        processes.ranks.from_first(judge)


def _judge(stage: Stage, config: RunConfig, console: Console) -> None:
    encoder = encoder_of(model_spec_of(config))
    alone = Processes(0, 1, torch.device("cpu"), "local")
    data = open_data(config, encoder, alone, console, says=False)
    with FolderLock(stage.folder, only_looks=True):
        # The list that its error names.
        open_quarantine(stage.folder, data, encoder, is_fresh=last_checkpoint(stage.folder) is None)
    # It refuses samples that no row holds.
    StepStream(
        data.mixture,
        data.indexes,
        data.records,
        encoder,
        config.train.global_batch_size,
        config.train.tokens_per_micro_batch,
    )
    if config.eval.every:
        open_held_out(config, data, encoder, alone, VisibleConsole(quiet=True))
