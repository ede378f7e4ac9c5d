"""``llava-moe plan paper= figure=``: GPU-hours and disk of all runs of a figure, told before any of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from llava_moe.commands.grid_hours import device_of_runs
from llava_moe.commands.plan import bound_stage
from llava_moe.commands.reproduce import open_figure
from llava_moe.config.hydra_compose import compose_again, resolved
from llava_moe.config.hydra_words import prepare_override
from llava_moe.errors import UserError
from llava_moe.files.atomic_write import write_atomically
from llava_moe.grid.cell import Cell, Words
from llava_moe.plan.devices import Device
from llava_moe.plan.hours import hours_of
from llava_moe.plan.max_row_length import Traces
from llava_moe.plan.stage import room_of
from llava_moe.plan.terminal import size
from llava_moe.run_config import TrainConfig
from llava_moe.runs.console import open_console, open_progress, say_next, say_notes
from llava_moe.runs.stages import plan_stages
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.text.shell_words import shell


@dataclass(frozen=True)
class CellPlan:
    """What a cell takes.

    Attributes:
        device_hours: of training; None where the device's rate is not known.
        num_bytes: that its run keeps at most.
    """

    num_steps: int
    device_hours: float | None
    num_bytes: int
    fits: bool
    notes: tuple[str, ...]


def plan_grid(plain: Mapping[str, Any], choices: Mapping[str, Any], typed: str) -> int:
    """Plan every training of a figure's grid and print the sum.

    Cells that differ by their seed alone are planned once, and those that train the same model on the same longest row
    are traced once.

    Args:
        plain: the settings of ``reproduce``; ``choices``: those of ``plan``.
        typed: the words of ``reproduce`` as a shell reads them.

    Raises:
        UserError: what ``plan`` would refuse of one of the trainings.
    """
    entry, _, grid = open_figure(plain)
    grid = grid if plain["only"] is None else grid.only([plain["only"]])
    console, progress = open_console(), open_progress()
    if choices["probe"]:
        raise UserError("probe=true takes real steps of one training: leave it out, or give that training's words")
    trainings = [cell for cell in grid.cells if cell.command == "train"]
    planned: dict[Words, CellPlan] = {}
    traces: Traces = {}
    bar = FittedBar("tracing", len({_kind(cell) for cell in trainings}))
    with passing(bar, progress):
        for cell in trainings:
            if _kind(cell) not in planned:
                bar.status = cell.name
                planned[_kind(cell)] = _plan_cell(cell, choices, traces)
                bar.tell(len(planned), bar.total)
    plans = {cell.name: planned[_kind(cell)] for cell in trainings}
    console.print(_table(trainings, planned))
    hours = [plan.device_hours for plan in plans.values()]
    told = "unknown hours" if None in hours else f"{sum(hour or 0.0 for hour in hours):,.1f} device-hours"
    disk = sum(plan.num_bytes for plan in plans.values())
    console.print(f"{len(trainings)} trainings: {told}, {size(disk)} of disk", style="bold")
    others = len(grid.cells) - len(trainings)
    notes = [f"{others} compositions, and all measuring, are not counted"] if others else ["measuring is not counted"]
    say_notes(console, list(dict.fromkeys([*notes, *(note for plan in planned.values() for note in plan.notes)])))
    if choices["out"]:
        file = Path(choices["out"]) / "plan.json"
        facts = {"paper": entry.paper, "figure": entry.figure, "cells": {name: asdict(p) for name, p in plans.items()}}
        write_atomically(file, json.dumps(facts, indent=1) + "\n")
        console.print(f"numbers: {file}", soft_wrap=True)
    if tight := [name for name, plan in plans.items() if not plan.fits]:
        words = shell(*trainings[[cell.name for cell in trainings].index(tight[0])].words)
        raise UserError(f"{tight[0]} does not fit: llava-moe plan {words} tells the nearest that does")
    say_next(console, [f"llava-moe reproduce {typed}"])
    return 0


def _kind(cell: Cell) -> Words:
    """What of a cell's words decides its plan."""
    return tuple(word for word in cell.words if not word.startswith("seed="))


def _plan_cell(cell: Cell, choices: Mapping[str, Any], traces: Traces) -> CellPlan:
    words = [prepare_override(word) for word in cell.words]
    (stage,) = plan_stages(resolved(compose_again("train", words)), words)
    train = stage.config.train
    device, num_devices = _device(choices, train)
    another_model = "more=model=random_7b"
    bound = bound_stage(stage, device, num_devices, set(), choices, open_progress(), another_model)
    bound.bench.traces = traces
    room = room_of(device, bound.asked.parallel)
    need = bound.bench.need(bound.bench.settled(bound.asked, room))
    steps = bound.bench.steps
    hours = hours_of(need, steps, device, train.dtype, choices["mfu"])
    return CellPlan(
        num_steps=steps.num_steps,
        device_hours=None if hours is None else hours.device_hours,
        num_bytes=sum(need.traced.saved.values()) * (train.keep_last + 1),
        fits=need.memory.total <= room,
        notes=bound.notes,
    )


def _device(choices: Mapping[str, Any], train: TrainConfig) -> tuple[Device, int]:
    here = max(1, torch.cuda.device_count() if choices["device"] is None else 1)
    return device_of_runs(choices["device"], train), choices["num_devices"] or here


def _table(trainings: list[Cell], planned: Mapping[Words, CellPlan]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("training", overflow="fold")
    for heading in ("seeds", "steps", "device-hours", "disk"):
        table.add_column(heading, justify="right", overflow="fold")
    for kind, plan in planned.items():
        own = [cell for cell in trainings if _kind(cell) == kind]
        hours = "unknown" if plan.device_hours is None else f"{plan.device_hours:,.3g}"
        name = own[0].name.rpartition("-seed")[0]
        table.add_row(name, str(len(own)), f"{plan.num_steps:,}", hours, size(plan.num_bytes))
    return table
