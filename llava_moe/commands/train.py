"""``llava-moe train``: one stage, or the stages that an experiment lists; then scores, a table and a report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import DictConfig
from rich.console import Console

from llava_moe.commands.compose_config import as_yaml, compose_again, resolved, run_composed
from llava_moe.commands.limits import TRAIN, check_settings
from llava_moe.commands.processes import join_processes
from llava_moe.commands.settings import fingerprint, settle
from llava_moe.commands.stop_signals import StopSignals
from llava_moe.errors import UserError
from llava_moe.train.checkpoint import STAGE_NAME

RUNS = Path("runs")
LISTS = ("overrides", "ignores")


@dataclass(frozen=True)
class Stage:
    """A stage to run: its folder, resolved configuration and title."""

    folder: Path
    config: dict[str, Any]
    title: str


def main(words: Sequence[str]) -> int:
    """Compose the configuration and train."""
    return run_composed("train", words, _train)


def _train(config: DictConfig, words: list[str]) -> int:
    # Heavy imports only once the configuration stands: a typing mistake is answered at once.
    from llava_moe.commands.stage import is_finished, train_stage

    plain = resolved(config)
    stages = plan_stages(plain, words)
    with StopSignals() as stop_signals:
        _check(plain, stages)
        processes = join_processes(plain["parallel"])
        console = Console(quiet=processes.rank != 0, soft_wrap=True)
        if not console.is_terminal:
            transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
        set_threads(plain)
        started = time.monotonic()
        was_finished = all(is_finished(stage.folder) for stage in stages)
        for stage in stages:
            text = as_yaml(stage.config)
            train_stage(stage.config, text, stage.folder, stage.title, processes, console, stop_signals)
        if processes.rank == 0:
            _finish(plain, stages, console, time.monotonic() - started, was_finished)
    return 0


def _check(config: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    """Refuse now what would stop the run later: hours of training must not end at a benchmark's mistyped name."""
    from llava_moe.commands.stage import check_stage, is_finished
    from llava_moe.eval.tasks import open_benchmark

    planned = {str(stage.folder) for stage in stages}
    for stage in stages:
        if not is_finished(stage.folder):
            # A stage may start from one before it, which has yet to run.
            follows = stage.config["init_from"] in planned
            check_stage(stage.config | {"init_from": None} if follows else stage.config)
    for name in config["eval"]["benchmarks"]:
        open_benchmark(name, config["eval"]["limit"], config["seed"])


def plan_stages(config: dict[str, Any], words: Sequence[str]) -> list[Stage]:
    """The stages of an experiment with their folders; an experiment without ``stages`` is one stage.

    Raises:
        UserError: a value that a setting cannot have, or a stage that is not described as one.
    """
    check_settings(config, TRAIN)
    name = experiment_name(words)
    if config["stages"] is None:
        own = settle(config)
        folder = Path(own["out"]) if own["out"] else RUNS / f"{name}-{fingerprint(own)}"
        return [Stage(folder, own, name)]
    configs = []
    for entry in config["stages"]:
        _check_entry(entry)
        ignored = ("exp", "scale", "out", *entry["ignores"])
        kept = [word for word in words if not any(fnmatchcase(_key(word), pattern) for pattern in ignored)]
        child = settle(resolved(compose_again("train", [*entry["overrides"], *kept])))
        if child["stages"] is not None:
            raise UserError(f"stages: {entry['overrides']} is itself an experiment of several stages")
        configs.append(child)
    digest = fingerprint({str(number): child for number, child in enumerate(configs)})
    root = Path(config["out"]) if config["out"] else RUNS / f"{name}-{digest}"
    stages: list[Stage] = []
    for entry, child in zip(config["stages"], configs, strict=True):
        if stages:
            child["init_from"] = str(stages[-1].folder)
        stages.append(Stage(root / entry["name"], child, f"{name} {entry['name']}"))
    return stages


def _check_entry(entry: Mapping[str, Any]) -> None:
    if set(entry) != {"name", "overrides", "ignores"} or not all(isinstance(entry[key], list) for key in LISTS):
        raise UserError(f"stages: {dict(entry)} must have a name and the lists overrides and ignores, as in exp=demo")
    if not STAGE_NAME.fullmatch(str(entry["name"])):
        raise UserError(f"stages: the name {entry['name']!r} must be a number, a dash and a word, such as 1-pretrain")


def experiment_name(words: Sequence[str]) -> str:
    """The ``exp=`` of the command line; ``demo`` without one."""
    named = [word.partition("=")[2] for word in words if _key(word) == "exp"]
    return named[-1] if named else "demo"


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def set_threads(config: Mapping[str, Any]) -> None:
    """Bound torch's CPU threads where the configuration does."""
    if config["train"]["num_threads"] is not None:
        torch.set_num_threads(int(config["train"]["num_threads"]))


def _finish(
    config: Mapping[str, Any], stages: Sequence[Stage], console: Console, seconds: float, was_finished: bool
) -> None:
    from llava_moe.commands.eval import evaluate_run, show_results
    from llava_moe.commands.reporting import next_commands, write_run_report

    root = stages[0].folder.parent if config["stages"] is not None else stages[0].folder
    results = None
    benchmarks = config["eval"]["benchmarks"]
    if benchmarks:
        results = evaluate_run(root, benchmarks, console, limit=config["eval"]["limit"], seed=config["seed"])
    report = write_run_report(root, [stage.folder for stage in stages])
    if results is not None:
        show_results(results, console)
    if was_finished:
        console.print(f"{root} was finished before: nothing was trained", highlight=False, markup=False)
    else:
        console.print(f"done in {seconds / 60:.1f} minutes: {root}", highlight=False, markup=False)
    console.print(f"report: {report}\n\nNext:", highlight=False, markup=False)
    for command in next_commands(root, has_scores=results is not None):
        console.print(f"  {command}", highlight=False, markup=False)
