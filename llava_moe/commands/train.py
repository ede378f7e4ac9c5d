"""``llava-moe train``: one stage, or the stages that an experiment lists; then scores, a table and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import transformers
from rich.console import Console

from llava_moe.config.hydra_compose import as_yaml
from llava_moe.run_config import RunConfig
from llava_moe.runs.check_all_stages import check_all_stages
from llava_moe.runs.console import say_next
from llava_moe.runs.curve_viewers import settle_viewers
from llava_moe.runs.processes import training_together
from llava_moe.runs.same_everywhere import refuse_unlike
from llava_moe.runs.saved_progress import standing
from llava_moe.runs.stage import check_stage, train_stage
from llava_moe.runs.stages import Stage, set_threads
from llava_moe.runs.stalls import watched_for_silence
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole
from llava_moe.train.folder import is_finished


def train(config: RunConfig, stages: Sequence[Stage], typed: Sequence[str], says_next: bool) -> Path | None:
    """Train the stages that are not finished, then score and report.

    Args:
        config: the experiment's own.
        typed: the words that train this alone, for the commands to type next.
        says_next: whether to print those commands.

    Returns:
        The folder of the run, or of the experiment of several stages; None in all processes but the first.
    """
    with StopSignals(partial(standing, [stage.folder for stage in stages])) as stop_signals:
        _check(config, stages)
        stages, notes = _settled(stages)
        seconds = config.train.stall_seconds
        with (
            training_together(config.parallel) as processes,
            watched_for_silence(processes, seconds, stop_signals.standing),
        ):
            console = VisibleConsole(quiet=processes.rank != 0, soft_wrap=True)
            if not console.is_terminal:
                transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
            for note in notes:
                console.print(note, style="yellow", highlight=False, markup=False)
            set_threads(config)
            started = time.monotonic()
            refuse_unlike([stage.config.plain for stage in stages], processes.ranks)
            check_all_stages(stages, processes, console)
            was_finished = all(is_finished(stage.folder, stage.config.plain) for stage in stages)
            for stage in stages:
                text = as_yaml(stage.config.plain)
                train_stage(stage.config, text, stage.folder, stage.title, processes, console, stop_signals)
        if processes.rank == 0:
            return _finish(config, stages, console, started, was_finished, typed, says_next)
    return None


def _settled(stages: Sequence[Stage]) -> tuple[list[Stage], list[str]]:
    """The stages with the curve viewers that they can have, and the lines to print of it."""
    waiting = [stage for stage in stages if not is_finished(stage.folder, stage.config.plain)]
    configs, notes = settle_viewers([stage.config for stage in waiting])
    settled = {stage.folder: config for stage, config in zip(waiting, configs, strict=True)}
    return [replace(stage, config=settled.get(stage.folder, stage.config)) for stage in stages], notes


def _check(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Refuse now what would stop the run later: hours of training must not end at a benchmark's mistyped name."""
    from llava_moe.commands.eval_stages import refuse_unpaired
    from llava_moe.runs.own_questions import training_benchmarks

    planned = {str(stage.folder) for stage in stages}
    for stage in stages:
        if not is_finished(stage.folder, stage.config.plain):
            # A stage may start from one before it, which has yet to run.
            follows = stage.config.init_from in planned
            check_stage(stage.config.changed(init_from=None) if follows else stage.config)
    refuse_unpaired(config.eval, training_benchmarks(config, config.eval.benchmarks))


def _finish(
    config: RunConfig,
    stages: Sequence[Stage],
    console: Console,
    started: float,
    was_finished: bool,
    words: Sequence[str],
    says_next: bool,
) -> Path:
    from llava_moe.commands.eval import show_results
    from llava_moe.commands.eval_stages import evaluate_stages
    from llava_moe.commands.reporting import next_commands, write_run_report

    root = stages[0].folder.parent if config.stages is not None else stages[0].folder
    results, of_stages = evaluate_stages(config, root, stages, console) if config.eval.benchmarks else (None, {})
    report = write_run_report(root, [stage.folder for stage in stages], words)
    if results is not None:
        show_results(results, console, of_stages)
    if was_finished:
        console.print(f"{root} was finished before: nothing was trained", highlight=False, markup=False)
    else:
        minutes = (time.monotonic() - started) / 60  # scoring is a part of what is waited for
        console.print(f"done in {minutes:.1f} minutes: {root}", highlight=False, markup=False)
    console.print(f"report: {report}", highlight=False, markup=False)
    if says_next:
        say_next(console, next_commands(root, results is not None, words))
    return root
