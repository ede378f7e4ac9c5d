"""``llava-moe data preview``: the first packed rows of a command line of ``train``, exactly as they will be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from llava_moe.commands.data_job import (
    begin,
    next_commands,
    of_ones_own,
    open_stage,
    seats_of,
)
from llava_moe.commands.job import DataJob
from llava_moe.data.stream import StepStream
from llava_moe.datatools.stats.rows import first_rows
from llava_moe.datatools.stats.rows_page import StageRows, rows_page
from llava_moe.datatools.stats.rows_terminal import print_legend, print_row
from llava_moe.errors import UserError
from llava_moe.files.atomic_write import write_atomically
from llava_moe.runs.console import open_console, open_progress, say_next
from llava_moe.runs.stages import Stage
from llava_moe.text.escape_control import visible


def preview(job: DataJob) -> int:
    """Show the first rows of every stage and write them as a page."""
    begin(job)
    console, progress = open_console(), open_progress()
    job, left_out = of_ones_own(job)
    stages = [_first_rows(stage, job.choices, progress) for stage in job.stages]
    commands = next_commands(job, "data stats", "plan", "train")
    path = job.folder / "preview.html"
    # Before anything is printed: a reader who closes the pipe early has the page all the same.
    write_atomically(path, rows_page(job.folder.name, job.words, stages, commands))
    for line in left_out:
        console.print(line, soft_wrap=True)
    print_legend(console)
    for stage in stages:
        console.print()
        console.print(Text(visible(stage.title), style="bold reverse"))
        for row in stage.rows[: job.choices["shown"]]:
            print_row(row, console)
        if (hidden := len(stage.rows) - job.choices["shown"]) > 0:
            more = "1 row more is" if hidden == 1 else f"{hidden} rows more are"
            console.print(Text(f"\n{more} on the page; shown={len(stage.rows)} prints all", style="dim"))
    console.print(f"\npage: {path}", soft_wrap=True)
    say_next(console, commands)
    return 0


def _first_rows(stage: Stage, choices: Mapping[str, Any], progress: Console) -> StageRows:
    stream = _stream(stage, choices["ranks"], progress)
    steps = stream.steps_in_epoch(choices["epoch"])
    if choices["step"] >= steps:
        raise UserError(f"step={choices['step']}: an epoch of {stage.title} has {steps:,} steps, 0 to {steps - 1:,}")
    rows = tuple(first_rows(stream, choices["epoch"], choices["step"], choices["rows"]))
    return StageRows(stage.title, stream.mixture.domains, rows)


def _stream(stage: Stage, num_ranks: int, progress: Console) -> StepStream:
    """The stream of the first rank, as training would have it, decoded in this process."""
    encoder, data = open_stage(stage, progress)
    seats = seats_of(stage, encoder, num_ranks)
    return StepStream(
        mixture=data.mixture,
        indexes=data.indexes,
        records=data.records,
        encoder=encoder,
        global_batch_size=seats.samples_per_step,
        tokens_per_micro_batch=seats.tokens_per_row,
        world=num_ranks,
        null_image=None if seats.null_image_tokens is None else encoder.null_image,
    )
