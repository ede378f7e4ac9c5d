"""One stage = one run = one folder: build everything from a configuration and hand it to the loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from llava_moe.assemble import (
    DTYPES,
    Assembled,
    model_spec_of,
    new_model,
    refuse_strange_base,
    weights_writer,
)
from llava_moe.compose.expert_bases import refuse_other_bases
from llava_moe.config.as_typed import command_elsewhere
from llava_moe.config.settings import mixture_of, optimizer_of
from llava_moe.data.quarantine import Quarantine
from llava_moe.data.source import find_files
from llava_moe.data.stream import StepStream
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.checkpoints import last_checkpoint, newest_checkpoint
from llava_moe.files.our_files import read_object
from llava_moe.model import ParameterGroup, TrainableParts, prepare_stage, recompute_activations
from llava_moe.model.recorded_weights import refuse_changed_start, refuse_other_embedded
from llava_moe.run_config import RunConfig
from llava_moe.runs.console import say_notes
from llava_moe.runs.dark_image_warning import WatchedStream
from llava_moe.runs.disk_space import checkpoint_bytes, refuse_small_disk
from llava_moe.runs.environment import describe_environment
from llava_moe.runs.free_memory import free_memory
from llava_moe.runs.objective import objective_of
from llava_moe.runs.processes import Processes, zero_of
from llava_moe.runs.rehearsal import try_rows
from llava_moe.runs.repair_logs import set_accounts_right
from llava_moe.runs.run_recorder import StageRun
from llava_moe.runs.same_everywhere import refuse_other_data, refuse_unshared
from llava_moe.runs.saved_progress import told_with_checkpoint
from llava_moe.runs.stage_changes import changes_told, lengthened
from llava_moe.runs.stage_data import (
    OpenData,
    fingerprint_images,
    fingerprint_samples,
    open_data,
    open_quarantine,
    refuse_changed_data,
)
from llava_moe.runs.stage_features import StageFeatures, check_features, open_features
from llava_moe.runs.stage_validation import check_validation, open_validation
from llava_moe.runs.stalls import is_watched, watched_for_stalls
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole
from llava_moe.text.escape_control import visible
from llava_moe.train.checkpoint import load_checkpoint, load_state
from llava_moe.train.checkpoint_writer import CheckpointWriter
from llava_moe.train.data_parallel_engine import DataParallelEngine
from llava_moe.train.engine import Engine, LocalEngine
from llava_moe.train.folder import ENVIRONMENT, FINISHED, FolderClaim, FolderLock, claim_configuration, is_finished
from llava_moe.train.loop import LoopSettings, train
from llava_moe.train.memory import memory_errors_explained
from llava_moe.train.objective import Objective
from llava_moe.train.pulse import LONG_WORK, Pulse, PulsedEngine, PulsedStream
from llava_moe.train.rank_errors import RankErrors
from llava_moe.train.schedule import Schedule, few_steps_note
from llava_moe.train.state import RunState


def check_stage(config: RunConfig) -> None:
    """Refuse what can be told from a configuration and the disk, before anything is built or written.

    Raises:
        UserError: settings that no adapter, model part or source has, a missing data file, or no run to start from.
    """
    model_spec = model_spec_of(config)
    trainable_parts(config)
    check_features(config)
    check_validation(config)
    for source in mixture_of(config).sources:
        find_files(source)
    if model_spec.init_from is not None:
        newest_checkpoint(Path(model_spec.init_from))


def train_stage(
    config: RunConfig,
    config_text: str,
    folder: Path,
    title: str,
    processes: Processes,
    console: Console,
    stop_signals: StopSignals,
) -> None:
    """Train one stage in ``folder`` to its end, resuming what is there; return at once if it is finished.

    Raises:
        UserError: the folder is in use, or belongs to another configuration; bad data; a full disk; out of memory.
        StoppedBySignalError: stopped by a signal with a checkpoint saved.
    """
    if processes.rank > 0:
        with memory_errors_explained():
            _train_locked(config, folder, title, processes, VisibleConsole(quiet=True), stop_signals)
        return
    with FolderLock(folder), memory_errors_explained():
        claim = claim_configuration(folder, config.plain, config_text, command_elsewhere(folder))
        _train_locked(config, folder, title, processes, console, stop_signals, claim)


def _train_locked(
    config: RunConfig,
    folder: Path,
    title: str,
    processes: Processes,
    console: Console,
    stop_signals: StopSignals,
    claim: FolderClaim | None = None,
) -> None:
    # The first process looks and tells the others: where they look, a file may be late.
    was_finished, name, engine_before = processes.ranks.from_first(lambda: _found(folder, config))
    checkpoint = None if name is None else folder / "checkpoints" / name
    if was_finished:
        refuse_other_embedded(folder, model_spec_of(config).architecture)
        return
    refuse_unshared(folder, processes.ranks)
    console.print(Text.assemble((visible(title), "bold"), f"  {visible(str(folder))}"))
    if processes.rank == 0:
        set_accounts_right(folder, console)
    opened = _open(config, folder, checkpoint, processes, console, claim)
    assembled, data, groups = opened.assembled, opened.data, opened.groups
    writer_on = _checkpoint_writer(config, folder, assembled, groups)
    _settle(processes, groups, engine_before, console)
    stream = _stream(config, assembled, data, processes)
    state = RunState() if opened.checkpoint is None else load_state(opened.checkpoint)
    steps = num_steps_of(config, stream)
    features = open_features(config, assembled, stream, processes, steps, state, console)
    pulse = Pulse(state.step)
    bare = _engine(config, assembled, groups, processes)
    engine = PulsedEngine(bare, pulse) if is_watched(processes, config.train.stall_seconds) else bare
    fed = stream if features is None else features.feed(stream)
    watched = WatchedStream(fed, console)
    schedule = Schedule(steps, config.train.warmup_ratio)
    _announce(console, config, assembled, groups, schedule)
    if opened.checkpoint is not None:
        state = _resume(opened.checkpoint, engine, changes_told(claim, schedule.num_steps), console)
    else:
        torch.manual_seed(config.seed * 1009 + processes.rank)
    processes.ranks.from_first(
        lambda: _write_environment(folder, data, assembled, claim, state.step, schedule.num_steps, processes.engine)
    )
    objective = _objective(assembled, features)
    validation = open_validation(
        config, folder, assembled, data, stream, engine, objective, processes, steps, state, console
    )
    run = StageRun(
        *(config, folder, title, engine, writer_on(engine, pulse), stream, opened.quarantine, schedule, state, console),
        *(stop_signals, validation),
    )
    explained = told_with_checkpoint(folder, stop_signals.standing)
    watch = (title, config.train.stall_seconds, pulse, partial(run.name_samples, ()), stop_signals.standing)
    beating = watched_for_stalls(processes, *watch)
    with explained, memory_errors_explained(), run, stop_signals.deferred(run.say_stopping), beating:
        if processes.world > 1 and config.train.rehearse:
            try_rows(bare, objective, fed, assembled, pulse, config.train.stall_seconds)
        state = train(
            engine,
            PulsedStream(watched, pulse),
            objective,
            schedule,
            [group.learning_rate for group in groups],
            run,
            _loop_settings(config, data),
            state,
            partial(_validate, run, pulse),
        )
    watched.tell(engine)
    finished = json.dumps(asdict(state) | {"seconds": run.seconds}, indent=1)
    with told_with_checkpoint(folder, stop_signals.standing):
        processes.ranks.from_first(lambda: write_atomically(folder / FINISHED, finished))


def _objective(assembled: Assembled, features: StageFeatures | None) -> Objective:
    """What the loop minimizes, of a model that is shown images or features that are kept."""
    objective = objective_of(assembled)
    return objective if features is None else features.read_in(objective)


def _found(folder: Path, config: RunConfig) -> tuple[bool, str | None, str | None]:
    """Whether the stage is finished, the name of the checkpoint that it goes on from, and the engine that wrote it."""
    checkpoint, path = last_checkpoint(folder), folder / ENVIRONMENT
    if checkpoint is None:
        return is_finished(folder, config.plain), None, None
    # A run of an earlier release does not say it.
    told = read_object(path, "put it back, or choose another folder with out=") if path.is_file() else {}
    return is_finished(folder, config.plain), checkpoint.name, told.get("engine")


def _settle(
    processes: Processes, groups: Sequence[ParameterGroup], engine_before: str | None, console: Console
) -> None:
    """Choose between whole and divided state by what trains, where that was left to us, and say it."""
    trained = [one for group in groups for one in group.parameters.values()]
    numbers, size = sum(one.numel() for one in trained), min(one.element_size() for one in trained)
    if chosen := processes.settle(numbers, size, engine_before):
        console.print(f"  {chosen}", highlight=False)


def _loop_settings(config: RunConfig, data: OpenData) -> LoopSettings:
    return LoopSettings(
        domains=data.mixture.domains,
        log_every=config.log.every,
        save_every=config.train.save_every,
        max_nonfinite_steps=config.train.max_nonfinite_steps,
    )


def _validate(run: StageRun, pulse: Pulse, state: RunState, meeting: RankErrors) -> bool:
    with pulse.long_work():
        return run.validate(state, meeting)


@dataclass(frozen=True)
class _Opened:
    """What a stage trains, and on what.

    Attributes:
        groups: the parts of the model that train.
        quarantine: of the first process alone.
        checkpoint: the one to go on from; None of a stage that begins.
    """

    assembled: Assembled
    groups: Sequence[ParameterGroup]
    data: OpenData
    quarantine: Quarantine | None
    checkpoint: Path | None


def _open(
    config: RunConfig,
    folder: Path,
    checkpoint: Path | None,
    processes: Processes,
    console: Console,
    claim: FolderClaim | None,
) -> _Opened:
    """Build the model and open the data; what the folder was begun with must be there still."""
    model_spec = model_spec_of(config)
    if checkpoint is not None:
        refuse_other_embedded(folder, model_spec.architecture)
    assembled = new_model(model_spec, processes.device)
    say_notes(console, assembled.notes)
    say_notes(console, refuse_other_bases(config.adapter.get("experts") or (), assembled))
    groups = prepare_stage(
        assembled.model,
        trainable_parts(config),
        assembled.attached.trainable_parameters() if config.trains_adapter else {},
        assembled.base.family,
    )
    if processes.rank == 0:
        refuse_small_disk(folder, groups)
    data = open_data(config, assembled.encoder, processes, console)
    if processes.world > 1:
        refuse_other_data(fingerprint_samples(data), fingerprint_images(data), processes.ranks)
    if checkpoint is not None:
        refuse_changed_data(folder, data, is_moved=claim is not None and bool(claim.places))
        say_notes(console, refuse_strange_base(folder, assembled.weights))
        refuse_changed_start(checkpoint, assembled.start)
    if claim is not None:
        claim.confirm()
    quarantine = None
    if processes.rank == 0:
        quarantine = open_quarantine(folder, data, assembled.encoder, is_fresh=checkpoint is None)
    return _Opened(assembled, groups, data, quarantine, checkpoint)


def _resume(checkpoint: Path, engine: Engine, changes: Sequence[str], console: Console) -> RunState:
    state = load_checkpoint(checkpoint, engine)
    console.print(f"resuming at step {state.step} from {checkpoint.name}")
    for note in changes:
        console.print(f"  {note}", highlight=False, markup=False)
    return state


def _write_environment(
    folder: Path,
    data: OpenData,
    assembled: Assembled,
    claim: FolderClaim | None,
    first_step: int,
    num_steps: int,
    engine: str,
) -> None:
    told = describe_environment(fingerprint_samples(data), assembled) | {"images": fingerprint_images(data)}
    told |= {"num_steps": num_steps, "engine": engine}
    write_atomically(folder / ENVIRONMENT, json.dumps(told | lengthened(folder, claim, first_step), indent=1))


def _checkpoint_writer(
    config: RunConfig, folder: Path, assembled: Assembled, groups: Sequence[ParameterGroup]
) -> Callable[[Engine, Pulse], CheckpointWriter]:
    """What writes checkpoints: beside the training where that is asked for and half of what is free holds a copy.

    To be asked for before an engine takes the model apart: what is divided has no numbers of its own.
    """
    write_weights, num_bytes = weights_writer(assembled), checkpoint_bytes(groups)

    def has_room() -> bool:
        return config.train.async_save and 2 * num_bytes < free_memory()

    def on(engine: Engine, pulse: Pulse) -> CheckpointWriter:
        waiting = partial(pulse.at, "writing a checkpoint", patience=LONG_WORK)
        return CheckpointWriter(folder, engine, write_weights, config.train.keep_last, has_room, waiting)

    return on


def _engine(config: RunConfig, assembled: Assembled, groups: Sequence[ParameterGroup], processes: Processes) -> Engine:
    if config.train.activation_checkpointing:
        recompute_activations(assembled.model)
    if processes.engine == "local":
        return LocalEngine(assembled.model, groups, optimizer_of(config), processes.device)
    if processes.engine == "ddp":
        return DataParallelEngine(assembled.model, groups, optimizer_of(config), processes.device)
    from llava_moe.train.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(
        assembled.model,
        groups,
        optimizer_of(config),
        zero_of(config.parallel),
        processes.device,
        DTYPES[config.train.dtype],
    )


def _stream(config: RunConfig, assembled: Assembled, data: OpenData, processes: Processes) -> StepStream:
    # A rank whose row has no image would leave the collectives of the vision tower to the others and hang them.
    null_image = assembled.encoder.null_image if processes.engine == "deepspeed" else None
    return StepStream(
        mixture=data.mixture,
        indexes=data.indexes,
        records=data.records,
        encoder=assembled.encoder,
        global_batch_size=config.train.global_batch_size,
        tokens_per_micro_batch=config.train.tokens_per_micro_batch,
        rank=processes.rank,
        world=processes.world,
        num_workers=config.data.num_workers,
        null_image=null_image,
        pin_memory=processes.device.type == "cuda",
    )


def num_steps_of(config: RunConfig, stream: StepStream) -> int:
    """Optimizer steps of the whole run."""
    if config.train.max_steps is not None:
        return int(config.train.max_steps)
    return sum(stream.steps_in_epoch(epoch) for epoch in range(int(config.train.epochs)))


def steps_note(config: RunConfig, num_steps: int) -> str | None:
    """A line on a run of few optimizer steps, with what to change; None for a longer one."""
    return few_steps_note(num_steps, config.train.global_batch_size, config.train.max_steps)


def _announce(
    console: Console,
    config: RunConfig,
    assembled: Assembled,
    groups: Sequence[ParameterGroup],
    schedule: Schedule,
) -> None:
    parts = ", ".join(f"{group.part} {group.num_parameters:,} at {group.learning_rate:g}" for group in groups)
    total = sum(parameter.numel() for parameter in assembled.model.parameters())
    console.print(f"  trains {parts}; {total:,} parameters in all", highlight=False)
    console.print(f"  attention: {assembled.attention.name} ({assembled.attention.reason})", highlight=False)
    steps = "1 step" if schedule.num_steps == 1 else f"{schedule.num_steps:,} steps"
    console.print(f"  {steps}, {schedule.num_warmup_steps} of them warm-up", highlight=False)
    if note := steps_note(config, schedule.num_steps):
        console.print(f"  {note}", style="yellow", highlight=False, markup=False)


def trainable_parts(config: RunConfig) -> TrainableParts:
    """What trains in the stage, at which rates."""
    layers = config.stage.vision_layers
    return TrainableParts(config.stage.learning_rates, None if layers is None else (layers[0], layers[1]))
