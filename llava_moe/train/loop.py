"""The training loop, top to bottom: fetch a step, count, forward and backward, update, log, save.

One optimizer step is a fixed set of samples. Its loss is the mean over all supervised tokens of the global batch,
however the samples are packed into rows and dealt to ranks:

    objective = sum(cross-entropy) / num_supervised_tokens + coef * sum_over_examples(balance) / num_examples

with both divisors counted over all ranks before the first backward pass (pytorch/torchtitan ``trainer.py`` does the
same for its token mean). A balance loss that is no sum over examples is given the sums that it is made from, which a
first pass over the step's rows, without gradients, adds up; a step of one row needs none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch

from llava_moe.data.batch import Batch
from llava_moe.errors import StoppedBySignalError, UserError
from llava_moe.train.engine import Engine
from llava_moe.train.last_step import LastWholeStep
from llava_moe.train.log import StepRecord
from llava_moe.train.loss import StepSums, cross_entropy_N, targets_of
from llava_moe.train.meeting import STATUSES, Meeting, flags_of, status_of
from llava_moe.train.memory import is_out_of_memory
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState


class ExpertTotals(Protocol):
    """Routing of one row: chosen experts ``[L, D, K]`` and summed router entropy ``[L, D]`` by layer and domain."""

    @property
    def tokens(self) -> torch.Tensor: ...
    @property
    def entropy(self) -> torch.Tensor: ...
    @property
    def layer_names(self) -> Sequence[str]: ...
    @property
    def num_experts(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Objective:
    """What the loop needs of the model's side, as plain callables.

    Attributes:
        inputs_of: a row -> keyword arguments of the model's forward.
        load_balance_coef: weight of the balance loss; 0 when there is none.
        auxiliary_loss: ``is_real [S]``, the step's totals or None -> balance loss of the last forward, summed over real
            examples.
        balance_totals: ``is_real [S]`` -> what the last forward adds to those totals; None where no loss needs them.
        expert_totals: ``domains [1, T]``, number of domains -> routing of the last forward.
        mark_prompts: told the ``labels [1, T]`` of a row before its forward.
    """

    inputs_of: Callable[[Batch], Mapping[str, Any]]
    load_balance_coef: float = 0.0
    auxiliary_loss: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None = None
    balance_totals: Callable[[torch.Tensor], torch.Tensor] | None = None
    expert_totals: Callable[[torch.Tensor, int], ExpertTotals] | None = None
    mark_prompts: Callable[[torch.Tensor], None] | None = None


class Step(Protocol):
    """This rank's rows of one optimizer step, and the keys of all its samples."""

    @property
    def epoch(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def batches(self) -> Sequence[Batch]: ...
    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def bad(self) -> Sequence[Any]: ...
    @property
    def padding_share(self) -> float: ...


class Stream(Protocol):
    """Where steps come from; ``iterate`` starts anywhere and always yields the same."""

    def steps_in_epoch(self, epoch: int) -> int: ...
    def iterate(self, epoch: int, first_step: int) -> Generator[Step, None, None]: ...


class Run(Protocol):
    """The run's folder and console, as the loop sees them."""

    def log(self, record: StepRecord) -> None: ...
    def quarantine(self, bad: Sequence[Any]) -> None: ...
    def save(self, state: RunState) -> None: ...
    def name_samples(self, keys: Sequence[str], epoch: int, index: int) -> list[str]: ...
    @property
    def stop_status(self) -> int: ...


Validate = Callable[[RunState, Meeting], bool]


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

    Args:
        validate: measures a state where that is due and not done; True asks for a checkpoint of it. What fails
            in it goes by the meeting where ranks can still meet; elsewhere it ends this rank, and with it the run.

    Raises:
        StoppedBySignalError: a signal asked for a stop; a checkpoint was saved at the step boundary.
        UserError: too many steps with a non-finite loss, out of memory, or too many bad records.
    """
    engine.module.train()
    last, meeting = LastWholeStep(state, run.save), Meeting(engine)
    try:
        return _train(engine, stream, objective, schedule, base_rates, run, settings, last, meeting, validate)
    except StoppedBySignalError:
        raise
    except Exception as error:
        # One rank alone cannot save: the others would wait for what it no longer does.
        if meeting.is_together:
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
    meeting: Meeting,
    validate: Validate | None,
) -> RunState:
    first_step = last.state.step
    # A run that was stopped at this step has yet to measure it.
    if first_step and _measures(validate, last, meeting):
        last.save()
    while last.state.step < schedule.num_steps:
        started = time.perf_counter()
        with closing(stream.iterate(last.state.epoch, last.state.epoch_step)) as steps:
            while (step := meeting.agree_on(partial(next, steps, None))) is not None:
                rates = [rate * schedule.factor(last.state.step) for rate in base_rates]
                outcome = take_step(engine, objective, step, rates, settings, run, last.before_update)
                bad = [entry for entries in engine.gather(list(step.bad)) for entry in entries]
                state = _after(engine, last, step, outcome, settings, run)
                # Both are tried: what is saved of this step goes on with its line and its bad records.
                meeting.attempt(partial(run.quarantine, bad))
                if engine.rank == 0 and (state.step % settings.log_every == 0 or state.step == schedule.num_steps):
                    seconds = time.perf_counter() - started
                    meeting.attempt(partial(run.log, _record(state, step, outcome, rates, settings, seconds)))
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
    if status := meeting.strongest(run.stop_status):
        _stop(last, status)
    return last.state


def _stop(last: LastWholeStep, status: int) -> None:
    last.save()
    raise StoppedBySignalError(f"stopped at step {last.state.step}", status)


def _measures(validate: Validate | None, last: LastWholeStep, meeting: Meeting) -> bool:
    """Measure the state where that is due; whether it wants a checkpoint of it."""
    if validate is None:
        return False
    try:
        return validate(last.state, meeting)
    except StoppedBySignalError:
        # What was measured is kept, and measured to its end when the run goes on.
        last.save()
        raise


@dataclass(frozen=True)
class StepOutcome:
    """Global sums of a step after all ranks are added up."""

    sums: StepSums
    expert_tokens: torch.Tensor | None
    expert_entropy: torch.Tensor | None
    layer_names: tuple[str, ...]
    num_experts: tuple[int, ...]
    objective: float
    grad_norm: float
    stop_status: int
    is_finite: bool


def take_step(
    engine: Engine,
    objective: Objective,
    step: Step,
    rates: Sequence[float],
    settings: LoopSettings,
    run: Run,
    before_update: Callable[[], None] = lambda: None,
) -> StepOutcome:
    """One optimizer step: count, forward and backward of this rank's rows, update; the sums of all ranks come back.

    Args:
        before_update: called where the next thing is that weights change.
    """
    num_domains = len(settings.domains)
    batches = [batch.to(engine.device) for batch in step.batches]
    counts = torch.tensor(
        [sum(batch.supervised_tokens for batch in batches), sum(batch.num_samples for batch in batches)],
        dtype=torch.float64,
        device=engine.device,
    )
    divisors = engine.sum(counts).clamp(min=1.0).tolist()
    sums = StepSums.zeros(num_domains, engine.device)
    experts = _ExpertSums()
    batch = None
    try:
        totals = _balance_totals(engine, objective, batches)
        for number, batch in enumerate(batches):
            loss = _forward_row(engine, objective, batch, sums, experts, num_domains, divisors, totals)
            engine.backward(loss, is_last=number == len(batches) - 1)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_out_of_memory(batches[0] if batch is None else batch, step)) from error
    stop = torch.tensor(flags_of(run.stop_status), dtype=torch.float64, device=engine.device)
    flat = engine.sum(torch.cat([sums.flat(), experts.flat(engine.device), stop]))
    total = StepSums.from_flat(flat[: sums.flat().numel()])
    balance = total.scalar("balance") / max(1.0, total.scalar("examples"))
    value = total.loss + objective.load_balance_coef * balance
    is_finite = math.isfinite(value)
    if is_finite:
        before_update()
        grad_norm = engine.step(rates)
        is_finite = math.isfinite(grad_norm)
    else:
        grad_norm = float("nan")
        if engine.can_skip:
            engine.skip()
    tokens, entropy = experts.from_flat(flat[total.flat().numel() : -len(STATUSES)])
    return StepOutcome(
        sums=total,
        expert_tokens=tokens,
        expert_entropy=entropy,
        layer_names=experts.layer_names,
        num_experts=experts.num_experts,
        objective=value,
        grad_norm=grad_norm,
        stop_status=status_of(flat[-len(STATUSES) :].tolist()),
        is_finite=is_finite,
    )


@torch.no_grad()
def _balance_totals(engine: Engine, objective: Objective, batches: Sequence[Batch]) -> torch.Tensor | None:
    """What the balance loss needs of the whole step, over all ranks; None where each row knows it by itself."""
    if objective.balance_totals is None or (engine.world == 1 and len(batches) == 1):
        return None
    parts = []
    for batch in batches:
        if objective.mark_prompts is not None:
            objective.mark_prompts(batch.labels)
        engine.forward(**objective.inputs_of(batch), logits_to_keep=1)
        parts.append(objective.balance_totals(batch.is_real))
    return engine.sum(torch.stack(parts).sum(0))


def _forward_row(
    engine: Engine,
    objective: Objective,
    batch: Batch,
    sums: StepSums,
    experts: _ExpertSums,
    num_domains: int,
    divisors: Sequence[float],
    totals: torch.Tensor | None,
) -> torch.Tensor:
    num_supervised, num_examples = divisors
    targets = targets_of(batch)
    if objective.mark_prompts is not None:
        objective.mark_prompts(batch.labels)
    output = engine.forward(**objective.inputs_of(batch), logits_to_keep=targets.positions_N)
    losses_N = cross_entropy_N(output.logits[0], targets)
    loss = losses_N.sum() / num_supervised
    balance: torch.Tensor | float = 0.0
    if objective.auxiliary_loss is not None:
        balance = objective.auxiliary_loss(batch.is_real, totals)
        loss = loss + objective.load_balance_coef * balance / num_examples
    sums.add_losses(losses_N, targets.domains_N)
    sums.add_row(batch, balance)
    if objective.expert_totals is not None:
        with torch.no_grad():
            experts.add(objective.expert_totals(batch.domains, num_domains))
    return loss


class _ExpertSums:
    """Routing counts of a step, flattened for the one reduction over ranks."""

    def __init__(self) -> None:
        self.tokens: torch.Tensor | None = None
        self.entropy: torch.Tensor | None = None
        self.layer_names: tuple[str, ...] = ()
        self.num_experts: tuple[int, ...] = ()

    def add(self, totals: ExpertTotals) -> None:
        self.layer_names, self.num_experts = tuple(totals.layer_names), tuple(totals.num_experts)
        self.tokens = totals.tokens.double() if self.tokens is None else self.tokens + totals.tokens
        self.entropy = totals.entropy.double() if self.entropy is None else self.entropy + totals.entropy

    def flat(self, device: torch.device) -> torch.Tensor:
        if self.tokens is None or self.entropy is None or not self.layer_names:
            return torch.zeros(0, dtype=torch.float64, device=device)
        return torch.cat([self.tokens.flatten(), self.entropy.flatten()]).to(device)

    def from_flat(self, flat: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if self.tokens is None or self.entropy is None or not self.layer_names:
            return None, None
        tokens, entropy = flat.split([self.tokens.numel(), self.entropy.numel()])
        return tokens.view_as(self.tokens).cpu(), entropy.view_as(self.entropy).cpu()


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


def _out_of_memory(batch: Batch, step: Step) -> str:
    tokens = sum(batch.segment_lengths)
    return (
        f"out of memory on a row of {tokens} tokens and {batch.num_images} images "
        f"(epoch {step.epoch}, step {step.index}): lower train.tokens_per_micro_batch (the batch and its result stay "
        "the same), or set train.activation_checkpointing=true"
    )
