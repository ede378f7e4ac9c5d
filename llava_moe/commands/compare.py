"""``llava-moe compare``: runs that differ by some values trained where they are not there, and set on one page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_moe.assemble import read_config
from llava_moe.commands.compare_axes import Asked
from llava_moe.commands.compare_grid import Compared, stage_of
from llava_moe.commands.compare_held_out import refuse_unmeasured
from llava_moe.commands.compare_scores import measure_changed_again
from llava_moe.commands.grid_hours import estimate
from llava_moe.commands.grid_runs import command_of, make_runs, say_failures, say_line
from llava_moe.commands.reporting import chat_with
from llava_moe.compare.best import Best
from llava_moe.compare.comparison import Comparison
from llava_moe.compare.page import write_page
from llava_moe.config.as_typed import key_of
from llava_moe.config.settings import is_embedded, sources_of
from llava_moe.errors import UserError
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.our_files import read_object
from llava_moe.grid.cell import Cell
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.plan.terminal import duration
from llava_moe.run_config import RunConfig
from llava_moe.runs.console import open_console, open_progress, say_next
from llava_moe.runs.own_questions import training_benchmarks
from llava_moe.runs.run_names import SEED, joined
from llava_moe.text.shell_words import shell

FOLDER = Path("runs/compare")
ASKED = "compare.json"
"""What a folder's comparison was asked for, but for the values."""
MOST_RUNS = 24
"""Trainings that are begun without a question."""


def compare(asked: Asked, compared: Compared, choices: Mapping[str, Any]) -> int:
    """Make the runs that are not there, and the page of all that are; 1 where a run failed."""
    folder = Path(choices["out"]) if choices["out"] else FOLDER / compared.name
    words = ["compare", *asked.typed, *([f"out={choices['out']}"] if choices["out"] else [])]
    console = open_console()
    if choices["commands"]:
        for cell in compared.grid.cells:
            say_line(console, command_of(words, cell))
        return 0
    _refuse_another(folder, asked)
    cells = folder / "cells"
    wanted = compared.grid if choices["only"] is None else compared.grid.only([choices["only"]])
    measure_changed_again(compared.grid, cells)
    results = Results(wanted, cells)
    left = [cell for cell in wanted.cells if cell.name not in results.cards]
    if left:
        if not choices["yes"]:
            _refuse_many(left, results, compared, shell("llava-moe", *words, "yes=true"), open_progress())
        # Hours of training must not end at data that is not there.
        training_benchmarks(compared.ways[0].config, compared.scoring.benchmarks)
        refuse_unmeasured([way.config for way in compared.ways], open_progress())
    write_atomically(folder / ASKED, json.dumps({"words": asked.base}, indent=1) + "\n")
    outcome = make_runs("compare", wanted, cells, choices["at_once"], console)
    results = Results(compared.grid, cells)
    comparison = _comparison(asked, compared, shell("llava-moe", *words))
    written = write_page(comparison, results, folder, partial(_keep, compared, results, asked, words), _notes(compared))
    if written.sentence:
        say_line(console, written.sentence)
    say_line(console, f"page: {written.page}")
    if say_failures(outcome, console):
        return 1
    say_next(console, written.commands)
    return 0


def _refuse_another(folder: Path, asked: Asked) -> None:
    """Refuse a folder that holds a comparison of other keys or other words, or no comparison at all.

    Raises:
        UserError: naming what differs.
    """
    path = folder / ASKED
    if not path.exists():
        if folder.is_dir() and (there := sorted(one.name for one in folder.iterdir())):
            raise UserError(
                f"out={folder}: the folder is neither empty nor a comparison's ({there[0]} lies in it); choose another"
            )
        return
    there = read_object(path, "put it back, or choose another folder with out=", {"words": [str]})["words"]
    gone = [word for word in there if word not in asked.base]
    added = [word for word in asked.base if word not in there]
    if gone or added:
        raise UserError(
            f"{folder} holds another comparison: {' '.join(gone) or 'nothing'} there, {' '.join(added) or 'nothing'} "
            "asked; choose another folder with out="
        )


def _refuse_many(left: Sequence[Cell], results: Results, compared: Compared, command: str, progress: Console) -> None:
    """Ask before more is trained than anyone would begin by mistake.

    Raises:
        UserError: with the number of runs, their steps and their hours; runs that are there tell these best.
    """
    if len(left) <= MOST_RUNS:
        return
    cards = [results.cards[cell.name] for cell in results.cells if cell.measured]
    if cards:
        seconds = len(left) * sum(card.seconds for card in cards) / len(cards)
        told = f", about {duration(seconds)} one after the other, by the {len(cards)} that are there"
    else:
        told = _estimated(left, compared, progress)
    raise UserError(f"{len(left)} runs would be trained{told}: if that is meant, {command}")


def _estimated(left: Sequence[Cell], compared: Compared, progress: Console) -> str:
    """Steps and hours of runs of which none is there."""
    stages = {cell.name: stage_of(compared, cell) for cell in left}
    first = {id(stage): name for name, stage in reversed(stages.items())}
    num_runs = Counter(first[id(stage)] for stage in stages.values())
    planned = {str(stage.folder) for way in compared.ways for stage in way.stages}
    try:
        found = estimate({name: stages[name] for name in num_runs}, num_runs, planned, progress)
    except UserError as error:
        return f"; how long that takes cannot be told ({error})"
    if found is None:
        return "; how long that takes is not known for this GPU"
    return (
        f", {found.num_steps:,} steps in all, about {duration(found.seconds)} one after the other (an estimate: "
        f"{duration(found.seconds / found.num_steps)} a step, from its arithmetic and how fast this machine is now)"
    )


def _comparison(asked: Asked, compared: Compared, command: str) -> Comparison:
    axes = [axis for axis in asked.axes if axis.key != SEED] or list(asked.axes)
    return Comparison(
        title=" · ".join(f"{axis.key}: {', '.join(axis.values)}" for axis in axes),
        command=command,
        ways=tuple(Ways(way.name, way.chosen) for way in compared.ways),
        chosen={way.name: way.chosen for way in compared.ways},
        seeds=compared.seeds,
        domains=compared.domains,
        scores=tuple(compared.scoring.scores),
        words=asked.words,
        is_embedded=all(is_embedded(way.config) for way in compared.ways),
    )


def _notes(compared: Compared) -> list[str]:
    limit = compared.ways[0].config.eval.held_out_limit
    drawn = f"at most {limit:,} of a domain (eval.held_out_limit), the same for all runs" if limit else "all of them"
    notes = [f"Held-out loss is measured after training, on records that no run trained on, {drawn}."]
    if not compared.scoring.scores:
        notes.append(
            "No benchmark was asked: eval.benchmarks=[NAME] scores every run; llava-moe ls benchmark lists them."
        )
    return notes


def _keep(compared: Compared, results: Results, asked: Asked, words: Sequence[str], best: Best) -> list[str]:
    """The commands to type for the best run, each as it stands."""
    root = results.folder / best.cell.name
    config = read_config(root)
    export = shell("llava-moe", "export", f"run={root}", *_form(config), f"out={results.folder.parent / 'best'}")
    score = f"{shell('llava-moe', *compared.scoring.words, f'run={root}', 'limit=0')}   # all questions"
    commands = [chat_with(root, config, ""), export, _longer(best.cell, results.folder, config)]
    commands += [score] if compared.scoring.words else []
    if not best.is_sure:
        commands.append(_more_seeds(asked, compared, words))
    return commands


def _form(config: RunConfig) -> tuple[str, ...]:
    """The words of ``export`` that fit: MixLoRA's factors are no LoRAs, and are held as one domain has them."""
    adapter = str(config.adapter.get("_target_"))
    if adapter.endswith(".MixLora"):
        return "to=hf", f"static=by_domain={sources_of(config)[0].domain}"
    return ("to=hf",) if adapter.endswith(".NoAdapter") else ("to=peft",)


def _longer(cell: Cell, folder: Path, config: RunConfig) -> str:
    """The same training, twice as long, in a folder of its own beside the comparison's."""
    train = config.train
    key = "train.epochs" if train.max_steps is None else "train.max_steps"
    length = f"{key}={2 * (train.epochs if train.max_steps is None else train.max_steps)}"
    kept = [word for word in cell.making(folder) if key_of(word) not in (key, "out")]
    place = folder.parent / joined(cell.name, "longer")
    return f"{shell('llava-moe', *kept, length, f'out={place}')}   # the same, twice as long"


def _more_seeds(asked: Asked, compared: Compared, words: Sequence[str]) -> str:
    """The comparison with more seeds: of those that are there nothing is trained again."""
    more, number = list(compared.seeds), 0
    while len(more) < max(3, len(compared.seeds) + 2):
        if number not in more:
            more.append(number)
        number += 1
    has_seeds = any(axis.key == SEED for axis in asked.axes)
    # A seed that is no list names its runs without one: the folder is another then.
    kept = [word for word in words if key_of(word) != SEED and (has_seeds or key_of(word) != "out")]
    seeds = ",".join(map(str, more))
    return f"{shell('llava-moe', *kept, f'seed=[{seeds}]')}   # surer by more seeds"
