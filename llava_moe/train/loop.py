"""The training loop, top to bottom: fetch a step, take it, log, measure, save; over epochs, to the last step."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from llava_moe.errors import StoppedBySignalError, UserError
from llava_moe.train.engine import Engine
from llava_moe.train.last_step import LastWholeStep
from llava_moe.train.log import StepRecord
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer_step import Step, StepOutcome, take_step
from llava_moe.train.rank_errors import RankErrors
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState


class Stream(Protocol):
    """Where steps come from; ``iterate`` starts anywhere and always yields the same."""

    def steps_in_epoch(self, epoch: int) -> int:
        """Optimizer steps of an epoch."""
        ...

    def iterate(self, epoch: int, first_step: int) -> Generator[Step, None, None]:
        """The steps of an epoch in order, from the one numbered ``first_step`` (from 0) on."""
        ...


class Run(Protocol):
    """The run's folder and console, as the loop sees them."""

    def log(self, record: StepRecord) -> None:
        """Write a step's line; called on rank 0 alone."""
        ...

    def quarantine(self, bad: Sequence[Any]) -> None:
        """Count and write down the bad records of a step, those of all ranks, none for most steps.

        Raises:
            UserError: too many records of the run are bad.
        """
        ...

    def save(self, state: RunState) -> None:
        """Write a checkpoint of ``state``, or begin to; all ranks call it."""
        ...

    def settle(self) -> None:
        """Wait until the checkpoint that is being written stands; all ranks call it."""
        ...

    def check_saving(self) -> None:
        """Raise what has failed while a checkpoint was written beside the training; called on rank 0 alone."""
        ...

    def name_samples(self, keys: Sequence[str], epoch: int, index: int) -> list[str]:
        """The samples of step ``index`` of an epoch, as a person finds them; ``keys`` are their record keys."""
        ...

    @property
    def stop_status(self) -> int:
        """The exit status that a signal asked this process for; 0 where none came."""
        ...


Validate = Callable[[RunState, RankErrors], bool]


@dataclass(frozen=True)
class LoopSettings:
    """Numbers that steer the loop.

    Attributes:
        domains: names of the domains, in the order of their numbers.
        log_every, save_every: optimizer steps between log lines and checkpoints (``save_every=0``: only at the end).
        max_nonfinite_steps: steps with a NaN or infinite loss that are left out before training stops.
    """

    domains: tuple[str, ...]
    log_every: int = 1
    save_every: int = 500
    max_nonfinite_steps: int = 3


def train(
    engine: Engine,
    stream: Stream,
    objective: Objective,
    schedule: Schedule,
    base_rates: Sequence[float],
    run: Run,
    settings: LoopSettings,
    state: RunState,
    validate: Validate | None = None,
) -> RunState:
    """Train from ``state`` to ``schedule.num_steps`` and return the last state.

    Step s has the learning rates ``base_rates[g] * schedule.factor(s)``, one for each parameter group g. A checkpoint
    is written every ``save_every`` steps, of each state that ``validate`` wants one of, and at the end. Whatever ends
    the training, the last whole step is saved where that can be: what was trained is not lost.

    Args:
        validate: measures a state where that is due and not done; True asks for a checkpoint of it. What fails
            in it goes by the meeting where ranks can still meet; elsewhere it ends this rank, and with it the run.

    Raises:
        StoppedBySignalError: a signal asked for a stop; a checkpoint was saved at the step boundary.
        UserError: too many steps with a non-finite loss, out of memory, or too many bad records.
    """
    engine.module.train()
    last, meeting = LastWholeStep(state, run.save, run.settle), RankErrors(engine)
    try:
        return _train(engine, stream, objective, schedule, base_rates, run, settings, last, meeting, validate)
    except StoppedBySignalError:
        raise
    except Exception as error:
        # One rank alone cannot save: the others would wait for what it no longer does.
        if meeting.is_together or last.has_failed_together:
            last.rescue(error)
        raise


def _train(
    engine: Engine,
    stream: Stream,
    objective: Objective,
    schedule: Schedule,
    base_rates: Sequence[float],
    run: Run,
    settings: LoopSettings,
    last: LastWholeStep,
    meeting: RankErrors,
    validate: Validate | None,
) -> RunState:
    first_step = last.state.step
    # A run that was stopped at this step has yet to measure it.
    if first_step and _measures(validate, last, meeting):
        last.save()
        # Readers are forked next, or the run ends.
        last.settle()
    while last.state.step < schedule.num_steps:
        started = time.perf_counter()
        with closing(stream.iterate(last.state.epoch, last.state.epoch_step)) as steps:
            while (step := meeting.agree_on(partial(next, steps, None))) is not None:
                rates = [rate * schedule.factor(last.state.step) for rate in base_rates]
                outcome = take_step(
                    engine, objective, step, rates, len(settings.domains), lambda: run.stop_status, last.before_update
                )
                # Objects travel by way of pickle and wait for the device: most steps have none to send.
                gathered = engine.gather(list(step.bad)) if outcome.num_bad else []
                bad = [entry for entries in gathered for entry in entries]
                state = _after(engine, last, step, outcome, settings, run)
                # Both are tried: what is saved of this step goes on with its line and its bad records.
                meeting.attempt(partial(run.quarantine, bad))
                if engine.rank == 0 and (state.step % settings.log_every == 0 or state.step == schedule.num_steps):
                    seconds = time.perf_counter() - started
                    meeting.attempt(partial(run.log, _record(state, step, outcome, rates, settings, seconds)))
                if engine.rank == 0:
                    meeting.attempt(run.check_saving)
                if engine.world == 1:
                    meeting.agree()
                # Alone, a signal that came after the sums is heard now and not a step later.
                if status := outcome.stop_status if engine.world > 1 else run.stop_status:
                    meeting.agree()
                    _stop(last, status)
                is_wanted = _measures(validate, last, meeting)
                if state.step == schedule.num_steps:
                    break
                if is_wanted or (settings.save_every and state.step % settings.save_every == 0):
                    meeting.agree()
                    last.save()
                # The wait for data counts: without it a run that starves for images would look fast.
                started = time.perf_counter()
            else:
                last.turn_epoch()
    meeting.agree()
    if last.state.step > first_step:
        last.save()
        last.settle()
    if status := meeting.strongest(run.stop_status):
        _stop(last, status)
    return last.state


def _stop(last: LastWholeStep, status: int) -> None:
    last.save()
    last.settle()
    raise StoppedBySignalError(f"stopped at step {last.state.step}", status)


def _measures(validate: Validate | None, last: LastWholeStep, meeting: RankErrors) -> bool:
    """Measure the state where that is due; whether it wants a checkpoint of it."""
    if validate is None:
        return False
    try:
        return validate(last.state, meeting)
    except StoppedBySignalError:
        # What was measured is kept, and measured to its end when the run goes on.
        last.save()
        last.settle()
        raise


def _after(
    engine: Engine, last: LastWholeStep, step: Step, outcome: StepOutcome, settings: LoopSettings, run: Run
) -> RunState:
    before = last.state
    nonfinite = before.nonfinite_steps + (not outcome.is_finite)
    state = replace(
        before,
        step=before.step + 1,
        epoch_step=step.index + 1,
        tokens_seen=before.tokens_seen + int(outcome.sums.scalar("tokens")),
        samples_seen=before.samples_seen + int(outcome.sums.scalar("examples")),
        nonfinite_steps=nonfinite,
    )
    allowed = settings.max_nonfinite_steps if engine.can_skip else 0
    if nonfinite > allowed:
        if engine.can_skip:
            last.keep()
        names = run.name_samples(step.keys, step.epoch, step.index)
        raise UserError(
            f"the loss or its gradient is NaN or infinite at step {state.step}, {nonfinite} such step(s) in all "
            f"(allowed: {allowed}); samples of this step: {', '.join(names)}. Lower the learning rates or look at "
            "these records"
        )
    last.arrive(state)
    return state


def _record(
    state: RunState,
    step: Step,
    outcome: StepOutcome,
    rates: Sequence[float],
    settings: LoopSettings,
    seconds: float,
) -> StepRecord:
    return StepRecord.build(
        state=state,
        keys=step.keys,
        sums=outcome.sums,
        objective=outcome.objective,
        grad_norm=outcome.grad_norm,
        learning_rate=max(rates),
        seconds=seconds,
        padding_share=step.padding_share,
        domains=settings.domains,
        expert_tokens=outcome.expert_tokens,
        expert_entropy=outcome.expert_entropy,
        layer_names=outcome.layer_names,
        num_experts=outcome.num_experts,
    )
