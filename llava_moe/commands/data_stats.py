"""``llava-moe data stats``: what a command line of ``train`` would train on, counted exactly from its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from llava_moe.commands.data_job import (
    begin,
    next_commands,
    of_ones_own,
    open_stage,
    seats_of,
)
from llava_moe.commands.job import DataJob
from llava_moe.datatools.stats.groups import Opened
from llava_moe.datatools.stats.stage import StageAccount, Training, account_stage
from llava_moe.datatools.stats.stats_page import stats_json, stats_page
from llava_moe.datatools.stats.terminal import print_account
from llava_moe.files.atomic_write import write_atomically
from llava_moe.runs.console import open_console, open_progress, say_next
from llava_moe.runs.stages import Stage
from llava_moe.terminal.fitted_bar import FittedBar, passing


def show_stats(job: DataJob) -> int:
    """Count, show and write the account of every stage."""
    begin(job)
    console, progress = open_console(), open_progress()
    job, left_out = of_ones_own(job)
    accounts = [_account(stage, job.choices, progress) for stage in job.stages]
    write_atomically(job.folder / "stats.json", stats_json(job.words, accounts))
    write_atomically(job.folder / "stats.html", stats_page(job.folder.name, job.words, accounts))
    for line in left_out:
        console.print(line, soft_wrap=True)
    for account in accounts:
        print_account(account, console)
    console.print(f"\npage: {job.folder / 'stats.html'}\nnumbers: {job.folder / 'stats.json'}", soft_wrap=True)
    say_next(console, next_commands(job, "data preview", "plan", "train"))
    return 0


def _account(stage: Stage, choices: Mapping[str, Any], progress: Console) -> StageAccount:
    encoder, data = open_stage(stage, progress)
    train = stage.config.train
    with passing(FittedBar("  counting epochs"), progress) as bar:
        return account_stage(
            stage.title,
            Opened(data.mixture, data.indexes, data.held_out, data.accepted),
            seats_of(stage, encoder, choices["ranks"]),
            Training(train.epochs, train.max_steps, choices["epochs"]),
            encoder.num_image_tokens if isinstance(encoder.num_image_tokens, int) else None,
            encoder.max_length,
            encoder.over_length,
            bar.tell,
        )
