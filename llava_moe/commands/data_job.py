"""What ``data check``, ``stats`` and ``preview`` share: stages opened by a job's words, and commands to type next."""

from __future__ import annotations

from dataclasses import replace

import torch
import transformers
from rich.console import Console

from llava_moe.assemble import encoder_of, model_spec_of
from llava_moe.commands.job import DataJob
from llava_moe.config.settings import is_embedded
from llava_moe.data.encode import Encoder
from llava_moe.datatools.stats.packing_stats import PackingRequest
from llava_moe.runs.console import open_console
from llava_moe.runs.processes import Processes
from llava_moe.runs.stage import check_stage
from llava_moe.runs.stage_data import OpenData, open_data
from llava_moe.runs.stages import Stage, set_threads


def begin(job: DataJob) -> None:
    """Bound torch's threads as the words say; bars of transformers would fill log files with control characters."""
    set_threads(job.config)
    transformers.utils.logging.disable_progress_bar()


def of_ones_own(job: DataJob) -> tuple[DataJob, list[str]]:
    """The job without the stages that read embedded data alone, where others read the user's; and a line on them.

    The captions of the demo's first stage are no part of a mixture that somebody else looks through.
    """
    own = tuple(stage for stage in job.stages if not is_embedded(stage.config))
    if not own or len(own) == len(job.stages):
        return job, []
    names = ", ".join(stage.folder.name for stage in job.stages if stage not in own)
    return replace(job, stages=own), [f"{names} reads data that ship with llava-moe alone: they are not looked at"]


def open_stage(stage: Stage, progress: Console) -> tuple[Encoder, OpenData]:
    """A stage's data with the encoder that training would have; no weight is read.

    Raises:
        UserError: what ``train`` would refuse, a missing file say.
    """
    # Files that are not there are told before a tokenizer is looked for, on a hub maybe.
    check_stage(stage.config.changed(init_from=None))
    encoder = encoder_of(model_spec_of(stage.config))
    alone = Processes(0, 1, torch.device("cpu"), "local")
    data = open_data(stage.config, encoder, alone, progress)
    # Where nobody watches what passes by, splits that are not read are named all the same.
    for records in data.records if progress.quiet else ():
        if records.unread is not None:
            open_console().print(records.unread, soft_wrap=True)
    return encoder, data


def seats_of(stage: Stage, encoder: Encoder, num_ranks: int) -> PackingRequest:
    """How training on ``num_ranks`` devices would seat samples."""
    parallel, train = stage.config.parallel, stage.config.train
    is_zero = parallel.engine == "auto_deepspeed" or (parallel.engine == "auto" and parallel.asks_for_zero)
    needs_image = parallel.engine == "deepspeed" or (is_zero and num_ranks > 1)
    return PackingRequest(
        samples_per_step=train.global_batch_size,
        tokens_per_row=train.tokens_per_micro_batch,
        num_ranks=num_ranks,
        null_image_tokens=encoder.num_null_tokens if needs_image else None,
    )


def next_commands(job: DataJob, *names: str) -> list[str]:
    """What to type next: the commands with the words of this one."""
    return [f"llava-moe {name} {job.words}".rstrip() for name in names]
