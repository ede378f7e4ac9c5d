"""``llava-moe analyze interference``: whose gradient steps lower or raise whose loss."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llava_moe.analyze.exact_steps import Steps, exact_effects, known_effects, steps_to_take
from llava_moe.analyze.gradients import gram_matrices, known_grams, record_gradients, summed
from llava_moe.analyze.interference_page import Costs, Interference, interference_output
from llava_moe.analyze.interference_result import agreement, exact_results, first_order_results
from llava_moe.analyze.losses import example_losses_S
from llava_moe.analyze.parts import Parameters, Part, Scope, chosen_parameters, members
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.assemble import Assembled
from llava_moe.commands.analyze_run import (
    AnalyzedRun,
    Session,
    finish,
    open_records_of,
    open_run,
    refuse_without_adapter,
    settings_asked,
)
from llava_moe.commands.words.analyze_interference import FEWEST
from llava_moe.data.batch import Batch
from llava_moe.errors import UserError
from llava_moe.terminal.fitted_bar import clock


def measure(plain: Mapping[str, Any], session: Session) -> int:
    """Measure, and write ``interference.{json,csv,svg,html}``."""
    run = open_run(plain, session)
    if not plain["projector"]:
        told = ", or projector=true to look into its projector alone"
        session.ranks.together(lambda: refuse_without_adapter(run, "interference", told))
    records = open_records_of(run, plain, session, FEWEST)
    ranks, assembled = session.ranks, run.assembled
    parameters = ranks.together(lambda: chosen_parameters(assembled, plain["projector"]))
    tokens_per_row = run.config.train.tokens_per_micro_batch
    steps = steps_to_take(
        parameters, records, plain["exact"], plain["exact_samples"], tokens_per_row, plain["step_size"]
    )
    costs = Costs(
        num_backwards=len(records.examples),
        num_forwards=steps.num_forwards if plain["exact"] else 0,
        num_bytes=4 * parameters.num_values * len(records.examples),
    )
    ranks.from_first(lambda: refuse_small_disk(run.folder, costs))
    tell_costs(run, records, steps, costs, session)

    grams, effects, losses_N = _effects(run, plain, session, records, parameters, steps)
    output = None
    if ranks.is_first:
        output = interference_output(_found(run, records, plain, parameters, steps, costs, losses_N, grams, effects))
    return finish(run, "interference", output, session)


def _effects(
    run: AnalyzedRun,
    plain: Mapping[str, Any],
    session: Session,
    records: HeldOutRecords,
    parameters: Parameters,
    steps: Steps,
) -> tuple[dict[Part, np.ndarray], dict[tuple[Scope, str], np.ndarray], np.ndarray]:
    """The products of gradients by part, the exact effects where asked for, and each record's loss."""
    ranks, console, num_records = session.ranks, session.console, len(records.examples)
    asked = settings_asked(run, records, projector=plain["projector"])
    more = {"exact": plain["exact"], "places": steps.places, "rows": steps.rows, "size": steps.size}
    pieces = Pieces(run.folder, "interference", asked)
    step_pieces = Pieces(run.folder, "interference", asked | more)
    has_grams = known_grams(parameters, num_records, pieces) is not None
    has_steps = len(known_effects(steps, step_pieces, range(len(steps.places)))) == len(steps.places)
    are_needed = ranks.from_first(lambda: not (has_grams and (has_steps or not plain["exact"])))
    gradients = record_gradients(run.assembled, parameters, records, pieces, ranks, console, are_needed)
    grams, effects = gram_matrices(gradients, ranks, console), {}
    if plain["exact"]:
        effects = exact_effects(run.assembled, gradients, records, steps, step_pieces, ranks, console)
    if ranks.is_first:
        gradients.forget()
    return grams, effects, gradients.losses_N


def _found(
    run: AnalyzedRun,
    records: HeldOutRecords,
    plain: Mapping[str, Any],
    parameters: Parameters,
    steps: Steps,
    costs: Costs,
    losses_N: np.ndarray,
    grams: Mapping[Part, np.ndarray],
    effects: Mapping[tuple[Scope, str], np.ndarray],
) -> Interference:
    group_N = records.group_of
    results = first_order_results(grams, group_N, plain["resamples"], plain["seed"])
    agreements = {}
    if effects:
        results += exact_results(effects, grams, group_N, steps, plain["resamples"], plain["seed"])
        places_of = {scope: members(tuple(grams), scope) for scope, _ in effects}
        agreements = {
            (scope, name): agreement(summed(grams, places_of[scope][name]), effects_NN, steps)
            for (scope, name), effects_NN in effects.items()
        }
    return Interference(
        run=run.facts,
        records=records,
        settings={key: plain[key] for key in ("seed", "samples", "resamples", "exact", "exact_samples", "projector")},
        num_values=parameters.num_values,
        steps=steps,
        costs=costs,
        losses_N=losses_N,
        results=tuple(results),
        agreements=agreements,
    )


def tell_costs(run: AnalyzedRun, records: HeldOutRecords, steps: Steps, costs: Costs, session: Session) -> None:
    """Print what it will take, its time from one pass of each kind, which is thrown away."""
    seconds = 0.0
    if records.examples:
        assembled = run.assembled
        seconds += costs.num_backwards * _timed(lambda: _pass(assembled, records.row([0]), backward=True))
        if costs.num_forwards:
            seconds += costs.num_forwards * _timed(lambda: _pass(assembled, records.row(steps.rows[0]), backward=False))
    share = f", shared by {session.ranks.world} processes" if session.ranks.world > 1 else ""
    told = f"{costs.in_words}; about {clock(seconds / session.ranks.world)} here{share}"
    session.console.print(f"  {told}", highlight=False, markup=False)


def _timed(work: Callable[[], None]) -> float:
    work()  # the first pass of a process is slower than all others
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _pass(assembled: Assembled, batch: Batch, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        losses_S = example_losses_S(assembled, batch)
        if backward:
            tensors = [tensor for tensor in assembled.model.parameters() if tensor.requires_grad]
            torch.autograd.grad(losses_S.sum(), tensors, allow_unused=True)
        losses_S.sum().item()


def refuse_small_disk(folder: Path, costs: Costs) -> None:
    """Raise ``UserError`` where the gradients would not fit on the disk."""
    place = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    free = shutil.disk_usage(place).free
    if free < costs.num_bytes:
        raise UserError(
            f"{folder}: its disk has {free / 1e9:.2f} GB free, and the gradients of {costs.num_backwards:,} records "
            f"take {costs.num_bytes / 1e9:.2f} GB: give fewer samples=, or a folder on another disk with out="
        )
