"""Held-out losses of runs beside each other: what was measured record by record, else what validation left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_moe.errors import UserError
from llava_moe.eval.results.bootstrap import Interval
from llava_moe.eval.results.comparison import Cell, ComparedLosses, LossRow
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.files.our_files import read_objects
from llava_moe.grid.effects import Effect, Stratum, effect_of
from llava_moe.grid.measured import FILE, Items, Measures, read_measured
from llava_moe.train.stage_log import REMEDY, VALIDATION

VALIDATIONS = "validation.jsonl"
_MEAN = "mean of domains"


@dataclass(frozen=True)
class RunLosses:
    """What is known of one run.

    Attributes:
        means: domain to nats a token.
        items: domain to its records, where they were measured one by one.
        told: where it stands, in words; "" where nothing is known.
    """

    means: Mapping[str, float]
    items: Mapping[str, Items]
    told: str = ""


def read_losses(folder: Path) -> RunLosses:
    """The held-out losses that a run's folder tells.

    Raises:
        UserError: a file of it is damaged.
    """
    try:
        checkpoint = newest_checkpoint(folder)
    except UserError:  # scores of a model that is no run of ours
        return RunLosses({}, {})
    stage = checkpoint.parent.parent
    if (stage / FILE).is_file():
        measured = read_measured(stage)
        found = {domain: one for (kind, domain), one in measured.items.items() if kind == "loss"}
        # What was measured before the run was trained for longer is another model's.
        if found and measured.checkpoint in (None, checkpoint.name):
            return RunLosses({domain: one.mean for domain, one in found.items()}, found, "record by record")
    for line in reversed(read_objects(stage / VALIDATIONS, REMEDY, VALIDATION)):
        domains = {name: one.get("loss") for name, one in line.get("domains", {}).items()}
        means = {name: float(loss) for name, loss in domains.items() if loss is not None}
        if means:
            return RunLosses(means, {}, f"validation at step {line['step']:,}")
    return RunLosses({}, {})


def measure_losses(folder: Path) -> None:
    """Measure a run's loss on each record that it kept out of training, and keep that in its folder.

    Raises:
        UserError: there is no such run, or it kept no record apart.
    """
    # Here and not above: nothing else that compares runs loads a model.
    from llava_moe.assemble import read_config
    from llava_moe.commands.measure_items import measure
    from llava_moe.config.settings import mixture_of

    stage = newest_checkpoint(folder).parent.parent
    config = read_config(stage)
    limit = config.eval.held_out_limit
    told = measure(stage, Measures(mixture_of(config).domains, None, {}, held_out=True, limit=limit))
    write_atomically(stage / FILE, json.dumps(told) + "\n")


def compare_losses(runs: Sequence[RunLosses]) -> ComparedLosses | None:
    """Runs beside the first of them; None where fewer than two, or none of one alone, have a loss."""
    known = [run for run in runs if run.means]
    if len(known) < min(2, len(runs)):
        return None
    domains = list(dict.fromkeys(domain for run in runs for domain in run.means))
    rows = [_row(runs, domain, [domain]) for domain in domains]
    shared = [domain for domain in domains if all(domain in run.means for run in known)]
    if len(shared) > 1:
        rows.append(_row(runs, _MEAN, shared))
    return ComparedLosses(tuple(rows), tuple(run.told for run in runs))


def _row(runs: Sequence[RunLosses], name: str, domains: Sequence[str]) -> LossRow:
    first, cells = runs[0], []
    for number, run in enumerate(runs):
        value, before = _mean(run, domains), _mean(first, domains)
        if not number or value is None or before is None:
            cells.append(Cell(value))
        else:
            cells.append(Cell(value, None, value - before, _paired(first, run, domains)))
    return LossRow(name, tuple(cells))


def _mean(run: RunLosses, domains: Sequence[str]) -> float | None:
    return float(np.mean([run.means[one] for one in domains])) if set(domains) <= set(run.means) else None


def _paired(before: RunLosses, after: RunLosses, domains: Sequence[str]) -> Interval | None:
    """Over the records, which are the same in both; the runs' seeds are two that were drawn, and are not in it."""
    strata = []
    for domain in domains:
        old, new = before.items.get(domain), after.items.get(domain)
        if old is None or new is None or not old.are_those_of(new) or len(new.names) < 2:
            return None
        # The same pair twice: nothing is left to seeds, and the interval is of the records alone.
        strata.append(Stratum(np.stack([new.sums_G - old.sums_G] * 2), new.weights_G))
    effect: Effect = effect_of(strata)
    return Interval(effect.low, effect.high)
