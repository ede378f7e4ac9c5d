"""``llava-moe analyze transfer``: what training on one domain alone does to the held-out loss of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from llava_moe.adapters import NoAdapter
from llava_moe.analyze.gradients import GRAM, RecordGradients, gram_matrices, record_gradients
from llava_moe.analyze.interference_page import Costs as GradientCosts
from llava_moe.analyze.parts import Parameters, Part, chosen_parameters
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.analyze.short_training import ShortTraining
from llava_moe.analyze.transfer import compare, measure_transfer
from llava_moe.analyze.transfer_cells import Cells, StreamOf
from llava_moe.analyze.transfer_page import Costs, MeasuredTransfer, transfer_output
from llava_moe.assemble import model_spec_of, new_start, read_config
from llava_moe.commands.analyze_interference import refuse_small_disk
from llava_moe.commands.analyze_run import (
    AnalyzedRun,
    Session,
    find_run,
    finish,
    open_records_of,
    open_run,
    settings_asked,
)
from llava_moe.commands.words.analyze_transfer import FEWEST, START
from llava_moe.config.settings import optimizer_of
from llava_moe.data.mixture import Mixture
from llava_moe.data.stream import StepStream
from llava_moe.errors import UserError
from llava_moe.eval.run import answerer_fingerprint
from llava_moe.model import prepare_stage, recompute_activations
from llava_moe.runs.console import say_notes
from llava_moe.runs.objective import objective_of
from llava_moe.runs.processes import Processes
from llava_moe.runs.stage import trainable_parts
from llava_moe.runs.stage_data import OpenData, fingerprint_samples, open_data
from llava_moe.terminal.fitted_bar import clock

PASSES_OF_TRAINING = 3
"""A sample's forward and backward pass in forward passes, about."""


def measure(plain: Mapping[str, Any], session: Session) -> int:
    """Measure, and write ``transfer.{json,csv,svg,html}``."""
    run = open_run(plain, session) if plain["checkpoint"] != START else _open_start(plain, session)
    records = open_records_of(run, plain, session, FEWEST)
    data = open_training_data(run, session)
    session.ranks.together(lambda: _refuse_untrained(records, data))
    parameters = session.ranks.together(lambda: _parameters_to_compare(run, plain))
    costs = Costs(
        num_trainings=len(plain["seeds"]) * len(records.names),
        num_steps=plain["steps"],
        batch_size=run.config.train.global_batch_size,
        num_measured=len(records.examples),
        gradients=_gradient_costs(parameters, records),
    )
    session.ranks.from_first(lambda: refuse_small_disk(run.folder, costs.gradients))
    training = short_training(run, plain, session)
    cells = Cells(
        run.assembled, records, training, streams_of(run, data, session), run.config.train.tokens_per_micro_batch
    )
    before_N, seconds = session.ranks.together(cells.losses_before)
    _tell_costs(costs, seconds, session)
    pieces = Pieces(run.folder, "transfer", settings_asked(run, records, **_training_asked(run, plain, data)))
    after_SDN, training_losses_SD = cells.losses_after(plain["seeds"], pieces, session.ranks, session.console)
    grams = None if parameters is None else _grams(run, records, parameters, before_N, session)
    if not session.ranks.is_first:
        return finish(run, "transfer", None, session)
    transfer = measure_transfer(before_N - after_SDN, records.group_of, plain["resamples"], plain["seed"])
    names = ("steps", "rate", "seeds", "gradients", "seed", "samples", "resamples")
    found = MeasuredTransfer(
        run=run.facts,
        records=records,
        settings={name: plain[name] for name in names},
        rates={group.part: group.learning_rate * plain["rate"] for group in training.groups},
        costs=costs,
        losses_N=before_N,
        training_losses_SD=training_losses_SD,
        load_balance_coef=training.objective.load_balance_coef,
        transfer=transfer,
        comparisons=() if grams is None else compare(transfer, grams, records.group_of, plain["seed"]),
    )
    return finish(run, "transfer", transfer_output(found), session)


def _training_asked(run: AnalyzedRun, plain: Mapping[str, Any], data: OpenData) -> dict[str, Any]:
    """What the short trainings depend on beside the weights that they start from."""
    train = run.config.train
    return {
        "steps": plain["steps"],
        "rate": plain["rate"],
        "data": fingerprint_samples(data),
        "amounts": {source.name: [source.repeats, source.cap] for source in data.mixture.sources},
        "stage": run.config.plain["stage"],
        "batch": [train.global_batch_size, train.tokens_per_micro_batch],
        "optimizer": asdict(optimizer_of(run.config)),
    }


def _gradient_costs(parameters: Parameters | None, records: HeldOutRecords) -> GradientCosts:
    num_records = len(records.examples)
    if parameters is None:
        return GradientCosts(0, 0, 0)
    return GradientCosts(num_records, 0, 4 * parameters.num_values * num_records)


def _tell_costs(costs: Costs, seconds_of_measuring: float, session: Session) -> None:
    """Print what it will take; a sample trained counts as three measured."""
    of_record = seconds_of_measuring / costs.num_measured
    trained = costs.num_trainings * costs.num_steps * costs.batch_size
    passes = PASSES_OF_TRAINING * (trained + costs.gradients.num_backwards) + costs.num_trainings * costs.num_measured
    world = session.ranks.world
    share = f", shared by {world} processes" if world > 1 else ""
    told = f"  {costs.in_words}; about {clock(of_record * passes / world)} here{share}"
    session.console.print(told, highlight=False, markup=False)


def _open_start(plain: Mapping[str, Any], session: Session) -> AnalyzedRun:
    """The run as it was before its first step: what it was started from, and a fresh adapter.

    Raises:
        UserError: what it was started from is not there, or another by now.
    """
    last = {**plain, "checkpoint": "last"}
    root, checkpoint = find_run(last, session)
    start = checkpoint.with_name("step-000000")
    if checkpoint == start:  # a merge of experts, which nobody trained
        return open_run(last, session)
    config = session.ranks.together(lambda: read_config(checkpoint.parent.parent))
    model_spec = model_spec_of(config)
    model_spec = replace(model_spec, dtype=plain["dtype"] or model_spec.dtype)
    assembled = session.ranks.together(lambda: new_start(checkpoint, model_spec, session.device))
    say_notes(session.console, assembled.notes)
    folder = root / "analyze" / start.name if plain["out"] is None else Path(plain["out"])
    fingerprint = answerer_fingerprint(assembled.model, assembled.encoder)
    return AnalyzedRun(root, start, folder, config, assembled, fingerprint)


def open_training_data(run: AnalyzedRun, session: Session) -> OpenData:
    """The run's records of training, indexed; the first process makes what the others find in the cache."""
    alone = Processes(0, 1, session.device, "local")

    def open_them() -> OpenData:
        return open_data(run.config, run.assembled.encoder, alone, session.console, says=False)

    if session.ranks.world > 1:
        session.ranks.from_first(lambda: bool(open_them()))
    return session.ranks.together(open_them)


def _refuse_untrained(records: HeldOutRecords, data: OpenData) -> None:
    for name in records.names:
        indexes = [
            index for source, index in zip(data.mixture.sources, data.indexes, strict=True) if source.domain == name
        ]
        if not any(len(index.rows) for index in indexes):
            raise UserError(f"domain {name} has no records to train on: leave it out of the run's domains=")


def _parameters_to_compare(run: AnalyzedRun, plain: Mapping[str, Any]) -> Parameters | None:
    """The parameters whose gradients are compared with the transfer: all that train, of adapter and projector."""
    if not plain["gradients"] or isinstance(model_spec_of(run.config).adapter, NoAdapter):
        return None
    return chosen_parameters(run.assembled, "projector" in run.config.stage.learning_rates)


def _grams(
    run: AnalyzedRun, records: HeldOutRecords, parameters: Parameters, losses_N: np.ndarray, session: Session
) -> dict[Part, np.ndarray]:
    """The products of every two records' gradients, by part of what trains; kept for the same command again."""
    pieces = Pieces(run.folder, "transfer", settings_asked(run, records, parameters=list(parameters.names)))
    if session.ranks.from_first(lambda: pieces.get(GRAM) is not None):
        return gram_matrices(RecordGradients(parameters, pieces, losses_N), session.ranks, session.console)
    # The short trainings may have trained more than what is compared.
    for tensor in run.assembled.model.parameters():
        tensor.requires_grad_(False)
    for tensor in parameters.tensors:
        tensor.requires_grad_(True)
    gradients = record_gradients(run.assembled, parameters, records, pieces, session.ranks, session.console)
    grams = gram_matrices(gradients, session.ranks, session.console)
    session.ranks.from_first(gradients.forget)
    return grams


def short_training(run: AnalyzedRun, plain: Mapping[str, Any], session: Session) -> ShortTraining:
    """What each short training is, by the run's own settings."""
    assembled, config = run.assembled, run.config
    has_adapter = config.trains_adapter
    adapter = assembled.attached.trainable_parameters() if has_adapter else {}
    groups = prepare_stage(assembled.model, trainable_parts(config), adapter, assembled.base.family)
    if config.train.activation_checkpointing:
        recompute_activations(assembled.model)
    return ShortTraining(
        module=assembled.model,
        groups=groups,
        optimizer=optimizer_of(config),
        objective=objective_of(assembled),
        num_steps=plain["steps"],
        rate=plain["rate"],
        device=session.device,
    )


def streams_of(run: AnalyzedRun, data: OpenData, session: Session) -> StreamOf:
    """The run's training records of one domain alone, in an order of the seed's."""
    train = run.config.train

    def stream_of(domain: str, seed: int) -> StepStream:
        places = [place for place, source in enumerate(data.mixture.sources) if source.domain == domain]
        sources = tuple(data.mixture.sources[place] for place in places)
        return StepStream(
            mixture=Mixture(sources, seed, max_bad_share=data.mixture.max_bad_share),
            indexes=tuple(data.indexes[place] for place in places),
            records=tuple(data.records[place] for place in places),
            encoder=run.assembled.encoder,
            global_batch_size=train.global_batch_size,
            tokens_per_micro_batch=train.tokens_per_micro_batch,
            num_workers=run.config.data.num_workers,
            pin_memory=session.device.type == "cuda",
        )

    return stream_of
