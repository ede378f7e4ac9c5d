"""``llava-moe analyze forgetting``: what runs that were trained one after another still know; no model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from llava_moe.analyze.forgetting import measure_forgetting
from llava_moe.analyze.forgetting_page import Found, forgetting_output, tables
from llava_moe.analyze.forgetting_scores import choose_parts, read_losses, read_matrix
from llava_moe.analyze.output import write_output
from llava_moe.assemble import lineage, read_config
from llava_moe.commands.analyze_run import Session
from llava_moe.commands.reporting import write_run_report
from llava_moe.config.settings import is_embedded, mixture_of
from llava_moe.errors import UserError
from llava_moe.eval.results.scored_run import ScoredRun, read_scored, run_labels, scored_benchmarks
from llava_moe.eval.tasks import called
from llava_moe.files.checkpoints import newest_checkpoint, stage_folders, step_of
from llava_moe.model.recorded_weights import refuse_unlike_bases
from llava_moe.runs.stage_validation import read_validations
from llava_moe.text.shell_words import named, shell


def measure(plain: Mapping[str, Any], session: Session) -> int:
    """Read the runs, and write ``forgetting.{json,csv,svg,html}`` beside the last; the first process alone."""
    session.ranks.from_first(lambda: _measure(plain, session))
    return 0


def _measure(plain: Mapping[str, Any], session: Session) -> None:
    folders = [Path(run) for run in plain["runs"]]
    labels = run_labels(folders)
    refuse_other_order(folders)
    refuse_other_bases(folders)
    found = _found(plain, folders, labels)
    console, last = session.console, folders[-1]
    for table in tables(found):
        console.print(table)
    for note in found.notes:
        console.print(note, style="dim", highlight=False, markup=False)
    folder = Path(plain["out"]) if plain["out"] is not None else last / "analyze"
    page = write_output(folder, "forgetting", forgetting_output(found))
    console.print(f"forgetting: {page} (and .json, .csv, .svg)", highlight=False, markup=False)
    if plain["out"] is None:
        console.print(f"report: {write_run_report(last)}", highlight=False, markup=False)


def _found(plain: Mapping[str, Any], folders: Sequence[Path], labels: Sequence[str]) -> Found:
    names = _benchmarks(folders, plain["benchmarks"])
    runs = {called(name): _scored(folders, labels, name) for name in names}
    trained = [_trained_domains(folder) for folder in folders]
    first = {name: scored[0].result for name, scored in runs.items()}
    parts = choose_parts(first, trained, labels, plain["parts"], plain["measure"])
    asked = {name: runs[name] for name in dict.fromkeys(part.benchmark for part in parts)}
    scores = read_matrix(asked, parts, plain["resamples"], plain["seed"])
    validations = [_last_validation(folder) for folder in folders]
    loss_TT, notes = read_losses(validations, parts, labels)
    return Found(
        labels=tuple(labels),
        weights=tuple(run.result.model for run in asked[parts[0].benchmark]),
        parts=parts,
        facts={name: scored[0].result.facts for name, scored in asked.items()},
        scores=scores,
        forgetting=measure_forgetting(scores.scores_TT, scores.resampled_RTT),
        losses=None if np.isnan(loss_TT).all() else measure_forgetting(loss_TT),
        settings={key: plain[key] for key in ("resamples", "seed")},
        notes=(*scores.notes, *notes),
    )


def refuse_other_order(folders: Sequence[Path]) -> None:
    """Refuse runs that were not trained one after another, each started from the one before.

    Raises:
        UserError: naming the first pair, and the right order where there is one.
    """
    chains = {folder: _runs_behind(folder) for folder in folders}
    for before, after in pairwise(folders):
        own, behind = _owner(before), chains[after]
        if own not in behind:
            raise UserError(f"runs: {after} was not started from {before}{_right_order(folders, chains, after)}")
        stages = {stage.resolve() for stage in stage_folders(after)}
        between = [one for one in behind[: behind.index(own)] if one not in stages]
        if between:
            raise UserError(
                f"runs: between {before} and {after} stands {between[0]}, which {after} was started from: name it, too"
            )


def _right_order(folders: Sequence[Path], chains: Mapping[Path, Sequence[Path]], after: Path) -> str:
    """The order in which the runs were trained, or what the one was started from instead."""
    by_age = sorted(folders, key=lambda folder: len(chains[folder]))
    if all(_owner(one) in chains[other] for one, other in pairwise(by_age)):
        in_order = ",".join(map(str, by_age))
        return f": the order of training is {shell(f'runs=[{in_order}]')}"
    told = ", then ".join(map(str, chains[after])) or "no run"
    return f" (its init_from leads to {told}): give runs that were trained one after another, each from the one before"


def refuse_other_bases(folders: Sequence[Path]) -> None:
    """Refuse runs that recorded bases that differ.

    Raises:
        UserError: naming two of them.
    """
    owners = [_owner(folder) for folder in folders]
    dtypes = [read_config(owner).train.dtype for owner in owners]
    for owner, dtype in zip(owners[1:], dtypes[1:], strict=True):
        refuse_unlike_bases(owners[0], owner, is_one_precision=dtype == dtypes[0])


def _owner(folder: Path) -> Path:
    """The run (of several stages the last one's) that a folder's newest checkpoint is of."""
    return newest_checkpoint(folder).parent.parent.resolve()


def _runs_behind(folder: Path) -> list[Path]:
    """The runs that a run was started from, the nearest first."""
    return [one.parent.parent.resolve() for one in lineage(newest_checkpoint(folder))[1:]]


def _trained_domains(folder: Path) -> tuple[str, ...]:
    return tuple(mixture_of(read_config(_owner(folder))).domains)


def _benchmarks(folders: Sequence[Path], asked: Sequence[str] | None) -> list[str]:
    """The benchmarks that are read: those asked for, else those that all runs were scored on."""
    if asked is not None:
        return list(dict.fromkeys(asked))
    scored = {folder: scored_benchmarks(folder) for folder in folders}
    shared = [name for name in scored[folders[0]] if all(name in found for found in scored.values())]
    if shared:
        return shared
    some = next((found for found in scored.values() if found), [])
    if some:
        return some[:1]  # the first run that lacks it is told with the command
    folder = folders[0]
    benchmark = "demo" if is_embedded(read_config(_owner(folder))) else "NAME"
    scoring = f"llava-moe eval {named('run', folder)} {shell(f'benchmarks=[{benchmark}]')}"
    raise UserError(f"runs: {folder} has not been scored: {scoring}, and the other runs alike")


def _scored(folders: Sequence[Path], labels: Sequence[str], name: str) -> list[ScoredRun]:
    return [read_scored(folder, label, name) for folder, label in zip(folders, labels, strict=True)]


def _last_validation(folder: Path) -> Mapping[str, Any] | None:
    """What the run measured at its newest checkpoint's step."""
    checkpoint = newest_checkpoint(folder)
    step = step_of(checkpoint)
    found = [one.fields for one in read_validations(checkpoint.parent.parent) if one.step == step]
    return found[-1] if found else None
