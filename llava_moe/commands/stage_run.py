"""The folder and the console of a running stage, as the loop sees them: log, quarantine, checkpoints, signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_moe.assemble import Assembled, weights_writer
from llava_moe.data.quarantine import Quarantine
from llava_moe.data.stream import StepStream
from llava_moe.errors import UserError
from llava_moe.train.checkpoint import save_checkpoint
from llava_moe.train.console import TrainingConsole
from llava_moe.train.engine import Engine
from llava_moe.train.log import JsonLines, LogSink, StepRecord, TensorBoard, WeightsAndBiases
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState


class StageRun:
    """The run's folder and console, as the loop sees them."""

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        title: str,
        engine: Engine,
        assembled: Assembled,
        stream: StepStream,
        quarantine: Quarantine,
        schedule: Schedule,
        state: RunState,
        console: Console,
    ) -> None:
        self.folder, self.engine, self.stream, self.quarantine_file = folder, engine, stream, quarantine
        self.keep_last = config["train"]["keep_last"]
        self.write_weights = weights_writer(assembled)
        self.started = time.monotonic()
        self._stop_asked = False
        self._handlers: dict[int, Any] = {}
        self.sinks: list[LogSink] = []
        if engine.rank == 0:
            self.sinks = _sinks(config["log"], folder, config["stage"]["name"], state)
            self.sinks.append(TrainingConsole(console, title, schedule.num_steps, state.step))

    def __enter__(self) -> StageRun:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._handlers[number] = signal.signal(number, self._ask_stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for sink in self.sinks:
            sink.close()

    def _ask_stop(self, *_: object) -> None:
        self._stop_asked = True

    @property
    def stop_asked(self) -> bool:
        return self._stop_asked

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def log(self, record: StepRecord) -> None:
        for sink in self.sinks:
            sink.write(record)

    def quarantine(self, bad: Sequence[Any]) -> None:
        if self.engine.rank == 0 and bad:
            self.quarantine_file.add(bad)

    def save(self, state: RunState) -> None:
        save_checkpoint(self.folder, self.engine, state, self.write_weights, self.keep_last)

    def name_samples(self, keys: Sequence[str], epoch: int, index: int) -> list[str]:
        plan = self.stream.mixture.plan(self.stream.indexes, epoch)
        first = index * self.stream.global_batch_size
        step = slice(first, first + self.stream.global_batch_size)
        places = zip(plan.source[step].tolist(), plan.row[step].tolist(), strict=True)
        return [f"{self.stream.mixture.sources[s].name}/{self.stream.records[s][row].id}" for s, row in places]


def _sinks(log: Mapping[str, Any], folder: Path, stage: str, state: RunState) -> list[LogSink]:
    sinks: list[LogSink] = [JsonLines(folder / "log.jsonl", stage, state.step)]
    if log["tensorboard"]:
        sinks.append(TensorBoard(folder / "tensorboard"))
    mode = log["wandb"]
    if mode == "online" or mode == "offline":
        sinks.append(WeightsAndBiases(folder, folder.name, mode, log["project"]))
    elif mode not in ("off", False):  # YAML reads a bare off as false
        raise UserError(f"log.wandb={mode}: choose off, offline or online")
    return sinks
