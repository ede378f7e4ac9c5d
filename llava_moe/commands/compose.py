"""``llava-moe compose``: one model from LoRAs trained apart, by MoLE's gates or by a merge; and which is best."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console

from llava_moe.config.as_typed import without
from llava_moe.config.hydra_compose import as_yaml
from llava_moe.config.settings import fingerprint
from llava_moe.run_config import RunConfig
from llava_moe.runs.console import say_next
from llava_moe.runs.curve_viewers import settle_viewers
from llava_moe.runs.processes import training_together
from llava_moe.runs.saved_progress import standing
from llava_moe.runs.stage import check_stage, train_stage
from llava_moe.runs.stages import RUNS, set_threads
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole
from llava_moe.text.shell_words import named, shell
from llava_moe.train.folder import is_finished

# What a merge that is made for itself does not take from the command that found it the best.
NOT_OF_MERGES = (
    *("pick", "split", "limit", "method", "out"),
    *("granularity", "temperature", "balance_coef", "mask", "exact"),
)


def mask(choices: Mapping[str, Any]) -> int:
    """Leave experts out of a composition whose gates were trained."""
    from llava_moe.commands.compose_merge import write_masked
    from llava_moe.commands.reporting import has_scores, next_commands

    folder, console = Path(choices["out"]), VisibleConsole(soft_wrap=True)
    write_masked(choices, folder, console)
    say_next(console, next_commands(folder, has_scores(folder)))
    return 0


def compose(choices: Mapping[str, Any], plain: dict[str, Any], typed: Sequence[str]) -> int:
    """Train gates over the experts, or merge them; pick the best where that is asked for.

    Args:
        typed: the words as the user gave them, for the commands to type next.
    """
    console = VisibleConsole(soft_wrap=True)
    if not console.is_terminal:
        transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
    set_threads(RunConfig.of(plain))
    started = time.monotonic()
    plain = _on_common_base(choices, plain)
    if choices["method"] == "mole":
        folder, is_first = _train_gates(choices, plain, console)
    else:
        folder, is_first = _merge(choices, plain, console), True
    if is_first:
        if choices["pick"]:
            _pick(choices, plain, folder, console, typed)
        minutes = (time.monotonic() - started) / 60
        console.print(f"done in {minutes:.1f} minutes: {folder}", highlight=False, markup=False)
        say_next(console, _next_commands(folder, typed, can_pick=not choices["pick"]))
    return 0


def _on_common_base(choices: Mapping[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The configuration, started from the base parts that the experts were trained on."""
    from llava_moe.compose.base_parts import common_start, refuse_other_models

    refuse_other_models(choices["experts"], plain["model"])
    if plain["init_from"] is None:
        from llava_moe.commands.compose_start import start_of_folders

        place = Path(plain["out"]).absolute().parent if plain["out"] else RUNS
        start = start_of_folders(choices["experts"], plain, common_start(choices["experts"]), place)
        plain["init_from"] = None if start is None else str(start)
    return plain


def _train_gates(choices: Mapping[str, Any], plain: dict[str, Any], console: Console) -> tuple[Path, bool]:
    """Train MoLE's gates as any stage is trained; return the run's folder and whether this is the first process."""
    folder = Path(plain["out"]) if plain["out"] else RUNS / f"mole-{fingerprint(plain)}"
    with StopSignals(partial(standing, [folder])) as stop_signals:
        config = RunConfig.of(plain)
        if not is_finished(folder, plain):
            check_stage(config)
            (config,), notes = settle_viewers([config])
            for note in notes:
                console.print(note, style="yellow", highlight=False, markup=False)
        with training_together(config.parallel) as processes:
            quiet = VisibleConsole(quiet=True) if processes.rank else console
            title = f"mole of {len(choices['experts'])} experts"
            train_stage(config, as_yaml(config.plain), folder, title, processes, quiet, stop_signals)
    if processes.rank == 0:
        from llava_moe.commands.reporting import write_run_report

        console.print(f"report: {write_run_report(folder)}", highlight=False, markup=False)
    return folder, processes.rank == 0


def _merge(choices: Mapping[str, Any], plain: dict[str, Any], console: Console) -> Path:
    """Write a merge as the folder of a run that was not trained: what reads runs reads it."""
    from llava_moe.commands.compose_merge import write_merge

    told = {key: choices[key] for key in ("method", "weights", "density", "rank")}
    # Merges made before layers= was there keep their names.
    told |= {} if choices["layers"] is None else {"layers": choices["layers"]}
    named = fingerprint(plain | {"choices": told})
    folder = Path(plain["out"]) if plain["out"] else RUNS / f"{choices['method']}-{named}"
    write_merge(choices, plain, folder, console)
    return folder


def _pick(
    choices: Mapping[str, Any], plain: dict[str, Any], folder: Path, console: Console, typed: Sequence[str]
) -> None:
    from llava_moe.commands.compose_merge import pick_best
    from llava_moe.commands.eval_next import is_run

    picked = pick_best(choices, plain, folder)
    picked.write(folder)
    console.print(picked.table())
    for note in picked.notes:
        console.print(note, style="dim", highlight=False)
    best = picked.best
    if best.place is not None:
        what = f"llava-moe chat {named('run', best.place)}" if is_run(Path(best.place)) else best.place
    else:
        kept = without(typed, lambda key: key in NOT_OF_MERGES)
        what = shell("llava-moe", "compose", *kept, f"method={best.name}")
    console.print(f"best on average: {best.name}; to go on with it: {what}", highlight=False, markup=False)


def _next_commands(folder: Path, typed: Sequence[str], can_pick: bool) -> list[str]:
    from llava_moe.commands.reporting import has_scores, next_commands

    commands = next_commands(folder, has_scores(folder))
    if can_pick:
        picking = shell("llava-moe", "compose", *typed, "pick=true")
        commands.append(f"{picking}   # held-out loss of each expert, each merge and this")
    return commands
