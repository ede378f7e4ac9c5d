"""The folder and the console of a running stage, as the loop sees them: log, quarantine, checkpoints, stop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_moe.data.quarantine import Quarantine
from llava_moe.data.stream import StepStream
from llava_moe.run_config import RunConfig
from llava_moe.runs.curve_viewers import open_viewers
from llava_moe.runs.stage_validation import StageValidation
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.train.checkpoint_writer import CheckpointWriter
from llava_moe.train.console import TrainingConsole
from llava_moe.train.engine import Engine
from llava_moe.train.log import JsonLines, LogSink, ScoreSink, StepRecord
from llava_moe.train.rank_errors import RankErrors
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState


class StageRun:
    """The run's folder and console, as the loop sees them."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        title: str,
        engine: Engine,
        checkpoints: CheckpointWriter,
        stream: StepStream,
        quarantine: Quarantine | None,
        schedule: Schedule,
        state: RunState,
        console: Console,
        stop_signals: StopSignals,
        validation: StageValidation | None = None,
    ) -> None:
        self.folder, self.engine, self.stream, self.quarantine_file = folder, engine, stream, quarantine
        self.checkpoints = checkpoints
        self.started = time.monotonic()
        self.stop_signals = stop_signals
        self.validation, self.best_step = validation, -1
        self.console: TrainingConsole | None = None
        self.sinks: list[LogSink] = []
        self.score_sinks: list[ScoreSink] = []
        if engine.rank == 0:
            self.score_sinks = open_viewers(config.log, folder, state.step, console)
            self.console = TrainingConsole(console, title, schedule.num_steps, state.step)
            self.score_sinks.append(self.console)
            self.sinks = [JsonLines(folder / "log.jsonl", config.stage.name, state.step), *self.score_sinks]

    def __enter__(self) -> StageRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpoints.join()
        for sink in self.sinks:
            sink.close()
        if self.validation is not None:
            self.validation.close()

    @property
    def stop_status(self) -> int:
        """The exit status that a signal asked for; 0 where none came."""
        return self.stop_signals.status if self.stop_signals.asked else 0

    def say_stopping(self, text: str) -> None:
        """Tell, from inside a signal handler, that a stop was heard."""
        if self.console is not None:
            self.console.say_stopping(text)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def log(self, record: StepRecord) -> None:
        for sink in self.sinks:
            sink.write(record)

    def quarantine(self, bad: Sequence[Any]) -> None:
        if self.quarantine_file is not None:
            self.quarantine_file.add(bad)

    def save(self, state: RunState) -> None:
        """Write a checkpoint, or begin to. What the log still owes comes first: a run that goes on has every line."""
        self.checkpoints.save(state, state.step == self.best_step, self._bring_log_to_disk)

    def settle(self) -> None:
        """Wait until the checkpoint that is being written stands; all ranks call it."""
        self.checkpoints.settle()

    def check_saving(self) -> None:
        """Raise what has failed while a checkpoint was written beside the training."""
        self.checkpoints.check()

    def _bring_log_to_disk(self) -> None:
        for sink in self.sinks:
            if isinstance(sink, JsonLines):
                sink.flush()

    def validate(self, state: RunState, meeting: RankErrors) -> bool:
        """Measure a state where that is due and not done; whether it is the best so far and wants a checkpoint."""
        if self.validation is None or not self.validation.is_due(state.step):
            return False
        # What is measured forks processes: not beside a thread that writes.
        self.settle()
        validation = self.validation.measure(state.step, meeting, lambda: self.stop_status)
        for sink in self.score_sinks:
            meeting.attempt(partial(sink.write_scores, state.step, validation.scores))
        if not self.validation.is_best(validation):
            return False
        self.best_step = state.step
        return True

    def name_samples(self, keys: Sequence[str], epoch: int, index: int) -> list[str]:
        plan = self.stream.mixture.plan(self.stream.indexes, epoch)
        first = index * self.stream.global_batch_size
        step = slice(first, first + self.stream.global_batch_size)
        places = zip(plan.source[step].tolist(), plan.row[step].tolist(), strict=True)
        return [f"{self.stream.mixture.sources[s].name}/{self.stream.records[s][row].id}" for s, row in places]
