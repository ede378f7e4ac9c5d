"""One stage = one run = one folder: build everything from a configuration and hand it to the loop."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from llava_moe.assemble import DTYPES, Assembled, new_model, recipe_of
from llava_moe.commands.environment import describe_environment
from llava_moe.commands.settings import cache_folder, mixture_of, optimizer_of
from llava_moe.commands.stage_run import StageRun
from llava_moe.data.lengths import SourceIndex, index_source
from llava_moe.data.mixture import Mixture
from llava_moe.data.quarantine import Quarantine
from llava_moe.data.source import Records, open_records
from llava_moe.data.stream import StepStream
from llava_moe.errors import UserError
from llava_moe.model import ParameterGroup, TrainableParts, prepare_stage
from llava_moe.train.checkpoint import last_checkpoint, load_checkpoint, write_atomically
from llava_moe.train.engine import Engine, LocalEngine
from llava_moe.train.folder import FINISHED, FolderLock, claim_configuration
from llava_moe.train.loop import LoopSettings, Objective, train
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    world: int
    device: torch.device
    engine: str

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            torch.distributed.barrier()


def join_processes(parallel: Mapping[str, Any]) -> Processes:
    """Find the other processes of a launcher, if there are any."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    engine = parallel["engine"]
    if engine not in ("auto", "local", "deepspeed"):
        raise UserError(f"parallel.engine={engine}: choose auto, local or deepspeed")
    if engine == "auto":
        engine = "local" if world == 1 else "deepspeed"
    if engine == "local":
        if world > 1:
            raise UserError(f"parallel=single with {world} processes: choose parallel=zero2 (or zero0, zero3)")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Processes(0, 1, device, engine)
    from llava_moe.train.deepspeed_engine import start_processes

    if "RANK" not in os.environ:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.setdefault("MASTER_PORT", "29511")
    return Processes(*start_processes(), engine)


def train_stage(
    config: dict[str, Any], config_text: str, folder: Path, title: str, processes: Processes, console: Console
) -> None:
    """Train one stage in ``folder`` to its end, resuming what is there; return at once if it is finished.

    Raises:
        UserError: the folder is in use, or belongs to another configuration; bad data; a full disk.
        StoppedBySignalError: stopped by a signal with a checkpoint saved.
    """
    if processes.rank > 0:
        _train_locked(config, folder, title, processes, Console(quiet=True))
        return
    with FolderLock(folder):
        claim_configuration(folder, config, config_text)
        _train_locked(config, folder, title, processes, console)


def is_finished(folder: Path) -> bool:
    """Whether the stage in this folder has run to its end."""
    return (folder / FINISHED).is_file()


def _train_locked(config: dict[str, Any], folder: Path, title: str, processes: Processes, console: Console) -> None:
    if is_finished(folder):
        return
    console.print(f"[bold]{title}[/bold]  {folder}")
    assembled = new_model(recipe_of(config), processes.device)
    groups = prepare_stage(
        assembled.model,
        TrainableParts(config["stage"]["learning_rates"], _pair(config["stage"]["vision_layers"])),
        assembled.attached.named_parameters() if "adapter" in config["stage"]["learning_rates"] else {},
    )
    data = open_data(config, assembled, processes, console)
    quarantine = Quarantine(
        folder / "quarantine.jsonl",
        {source.name: index.num_records for source, index in zip(data.mixture.sources, data.indexes, strict=True)},
        data.mixture.max_bad_share,
    )
    if processes.rank == 0:
        quarantine.add(entry for index in data.indexes for entry in index.bad)
    engine = _engine(config, assembled, groups, processes)
    stream = _stream(config, assembled, data, engine)
    schedule = Schedule(_num_steps(config, stream), config["train"]["warmup_ratio"])
    _announce(console, assembled, groups, schedule)
    state = RunState()
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, engine)
        console.print(f"resuming at step {state.step} from {checkpoint.name}")
    else:
        torch.manual_seed(config["seed"] * 1009 + processes.rank)
    if processes.rank == 0:
        write_atomically(
            folder / "environment.json", json.dumps(describe_environment(config, assembled.model), indent=1)
        )
    run = StageRun(config, folder, title, engine, assembled, stream, quarantine, schedule, state, console)
    with run:
        state = train(
            engine,
            stream,
            _objective(assembled),
            schedule,
            [group.learning_rate for group in groups],
            run,
            LoopSettings(
                domains=data.mixture.domains,
                log_every=config["log"]["every"],
                save_every=config["train"]["save_every"],
                max_nonfinite_steps=config["train"]["max_nonfinite_steps"],
            ),
            state,
        )
    if processes.rank == 0:
        write_atomically(folder / FINISHED, json.dumps(asdict(state) | {"seconds": run.seconds}, indent=1))
    engine.barrier()


@dataclass(frozen=True)
class OpenData:
    """A mixture with its sources opened and indexed."""

    mixture: Mixture
    records: tuple[Records, ...]
    indexes: tuple[SourceIndex, ...]


def open_data(config: Mapping[str, Any], assembled: Assembled, processes: Processes, console: Console) -> OpenData:
    """Open and index every source of the mixture, the first process before the others, which then find the cache."""
    mixture, cache = mixture_of(config), cache_folder()
    if processes.rank > 0:
        processes.wait()
    records = tuple(open_records(source, cache) for source in mixture.sources)
    indexes = []
    for source, content in zip(mixture.sources, records, strict=True):
        with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
            task = bar.add_task(f"  reading {source.name}", total=len(content))
            index = index_source(source, content, assembled.encoder, cache, partial(_advance, bar, task))
        indexes.append(index)
        left_out = f", {len(index.bad)} left out" if index.bad else ""
        cut = f", {index.num_cut} cut" if index.num_cut else ""
        console.print(
            f"  {source.name} ({source.domain}): {len(index.rows):,} records{left_out}{cut}, "
            f"{index.lengths.mean():.0f} tokens on average",
            highlight=False,
        )
    if processes.rank == 0:
        processes.wait()
    return OpenData(mixture, records, tuple(indexes))


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _engine(
    config: Mapping[str, Any], assembled: Assembled, groups: Sequence[ParameterGroup], processes: Processes
) -> Engine:
    train_config, parallel = config["train"], config["parallel"]
    if train_config["activation_checkpointing"]:
        # Reentrant checkpointing drops the balance loss's gradient: it is not an option.
        assembled.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if processes.engine == "local":
        return LocalEngine(assembled.model, groups, optimizer_of(config), processes.device)
    from llava_moe.train.deepspeed_engine import DeepSpeedEngine, ZeroSettings

    zero = ZeroSettings(
        parallel["stage"], parallel["offload_optimizer"], parallel["offload_parameters"], dict(parallel["extra"])
    )
    return DeepSpeedEngine(
        assembled.model, groups, optimizer_of(config), zero, processes.device, DTYPES[train_config["dtype"]]
    )


def _stream(config: Mapping[str, Any], assembled: Assembled, data: OpenData, engine: Engine) -> StepStream:
    train_config, size = config["train"], assembled.base.image_size
    null_image = np.zeros((3, size, size), dtype=np.uint8) if engine.needs_image_everywhere else None
    return StepStream(
        mixture=data.mixture,
        indexes=data.indexes,
        records=data.records,
        encoder=assembled.encoder,
        global_batch_size=train_config["global_batch_size"],
        tokens_per_micro_batch=train_config["tokens_per_micro_batch"],
        rank=engine.rank,
        world=engine.world,
        num_workers=config["data"]["num_workers"],
        null_image=null_image,
    )


def _num_steps(config: Mapping[str, Any], stream: StepStream) -> int:
    if config["train"]["max_steps"] is not None:
        return int(config["train"]["max_steps"])
    return sum(stream.steps_in_epoch(epoch) for epoch in range(int(config["train"]["epochs"])))


def _objective(assembled: Assembled) -> Objective:
    attached = assembled.attached
    routed = attached.is_routed
    return Objective(
        inputs_of=assembled.inputs_of,
        load_balance_coef=attached.load_balance_coef,
        auxiliary_loss=(lambda is_real: attached.auxiliary_loss(is_real, reduction="sum")) if routed else None,
        expert_totals=attached.expert_totals if routed else None,
    )


def _announce(
    console: Console,
    assembled: Assembled,
    groups: Sequence[ParameterGroup],
    schedule: Schedule,
) -> None:
    parts = ", ".join(f"{group.part} {group.num_parameters:,} at {group.learning_rate:g}" for group in groups)
    total = sum(parameter.numel() for parameter in assembled.model.parameters())
    console.print(f"  trains {parts}; {total:,} parameters in all", highlight=False)
    console.print(f"  attention: {assembled.attention.name} ({assembled.attention.reason})", highlight=False)
    console.print(f"  {schedule.num_steps:,} steps, {schedule.num_warmup_steps} of them warm-up", highlight=False)


def _pair(layers: Sequence[int] | None) -> tuple[int, int] | None:
    return None if layers is None else (int(layers[0]), int(layers[1]))
