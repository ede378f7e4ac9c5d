"""One optimizer step: count, forward and backward of this rank's rows, one reduction over ranks, update.

A step is a fixed set of samples. Its loss is the mean over all supervised tokens of the global batch, however the
samples are packed into rows and dealt to ranks:

    objective = sum(cross-entropy) / num_supervised_tokens + coef * sum_over_examples(balance) / num_examples

with both divisors counted over all ranks before the first backward pass (pytorch/torchtitan ``trainer.py`` does the
same for its token mean). A balance loss that is no sum over examples is given the sums that it is made from, which a
first pass over the step's rows, without gradients, adds up; a step of one row needs none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from llava_moe.data.batch import Batch
from llava_moe.errors import UserError
from llava_moe.to_device import to_device
from llava_moe.train.engine import Engine
from llava_moe.train.expert_sums import ExpertSums
from llava_moe.train.loss import RunningSums, StepSums
from llava_moe.train.memory import is_out_of_memory
from llava_moe.train.objective import Objective
from llava_moe.train.rank_errors import flags_of, status_of


class Step(Protocol):
    """This rank's rows of one optimizer step, and the keys of all its samples."""

    @property
    def epoch(self) -> int:
        """The epoch that the step belongs to, from 0."""
        ...

    @property
    def index(self) -> int:
        """The step's number in its epoch, from 0."""
        ...

    @property
    def batches(self) -> Sequence[Batch]:
        """This rank's rows, one micro-batch each; every rank has equally many."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Record keys of the samples of all ranks, in the order of the plan."""
        ...

    @property
    def bad(self) -> Sequence[Any]:
        """Records of this rank that could not be used, as the run's list of them takes them."""
        ...

    @property
    def padding_share(self) -> float:
        """Share of the tokens in this rank's rows that belong to no real sample, 0 to 1."""
        ...


@dataclass(frozen=True)
class StepOutcome:
    """What a step came to, over all ranks.

    Attributes:
        sums: losses and counts of the global step.
        expert_tokens, expert_entropy: float64 ``[L, D, K]`` and ``[L, D]`` on the CPU, see
            :class:`~llava_moe.train.expert_sums.ExpertTotals`; None where nothing is routed.
        layer_names, num_experts: of those L layers.
        objective: what was minimized, in nats, by the equation above.
        grad_norm: L2 norm of the global gradient before clipping; NaN where the step was left out for its loss.
        stop_status: the exit status that a signal asked some rank for; 0 where none came.
        is_finite: whether objective and gradient are; where not, no weight has changed on an engine that can skip.
        num_bad: records of the step that could not be used, on all ranks.
    """

    sums: StepSums
    expert_tokens: torch.Tensor | None
    expert_entropy: torch.Tensor | None
    layer_names: tuple[str, ...]
    num_experts: tuple[int, ...]
    objective: float
    grad_norm: float
    stop_status: int
    is_finite: bool
    num_bad: int = 0


def take_step(
    engine: Engine,
    objective: Objective,
    step: Step,
    rates: Sequence[float],
    num_domains: int,
    stop_status: Callable[[], int] = lambda: 0,
    before_update: Callable[[], None] = lambda: None,
) -> StepOutcome:
    """Take one optimizer step; the sums of all ranks come back.

    Args:
        rates: the learning rate of each parameter group in this step.
        num_domains: D, the domains that losses are kept apart by.
        stop_status: asked behind the last backward pass for the exit status that a signal wants here, 0 for none.
        before_update: called where the next thing is that weights change.

    Raises:
        UserError: a row does not fit into memory.
    """
    num_supervised, num_examples, num_bad = _counts(engine, step)
    batches = [batch.to(engine.device) for batch in step.batches]
    divisors = (max(1.0, num_supervised), max(1.0, num_examples))
    sums = RunningSums(num_domains, engine.device)
    experts = ExpertSums()
    batch = None
    try:
        totals = balance_totals_of(engine, objective, batches)
        for number, batch in enumerate(batches):
            loss = _forward_row(engine, objective, batch, sums, experts, num_domains, divisors, totals)
            engine.backward(loss, is_last=number == len(batches) - 1)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_out_of_memory(batches[0] if batch is None else batch, step)) from error
    stop = to_device(torch.tensor(flags_of(stop_status()), dtype=torch.float64), engine.device)
    parts = [sums.flat(), experts.flat(engine.device), stop]
    # All that the host asks of the step is read at once: each reading waits until the device has nothing left to do.
    losses, routed, stop = engine.sum(torch.cat(parts)).cpu().split([part.numel() for part in parts])
    total = StepSums.from_flat(losses)
    balance = total.scalar("balance") / max(1.0, total.scalar("examples"))
    value = total.loss + objective.load_balance_coef * balance
    is_finite, grad_norm = math.isfinite(value), float("nan")
    if is_finite:
        before_update()
        grad_norm = engine.step(rates)
        is_finite = math.isfinite(grad_norm)
    elif engine.can_skip:
        engine.skip()
    tokens, entropy = experts.from_flat(routed)
    return StepOutcome(
        sums=total,
        expert_tokens=tokens,
        expert_entropy=entropy,
        layer_names=experts.layer_names,
        num_experts=experts.num_experts,
        objective=value,
        grad_norm=grad_norm,
        stop_status=status_of(stop.tolist()),
        is_finite=is_finite,
        num_bad=int(num_bad),
    )


def _counts(engine: Engine, step: Step) -> Sequence[float]:
    """Supervised tokens, examples and bad records of the step, over all ranks."""
    own = (
        sum(batch.supervised_tokens for batch in step.batches),
        sum(batch.num_samples for batch in step.batches),
        len(step.bad),
    )
    if engine.world == 1:
        return own
    told: list[float] = engine.sum(to_device(torch.tensor(own, dtype=torch.float64), engine.device)).tolist()
    return told


@torch.no_grad()
def balance_totals_of(engine: Engine, objective: Objective, batches: Sequence[Batch]) -> torch.Tensor | None:
    """What the balance loss needs of the whole step, over all ranks; None where each row knows it by itself.

    Where it is needed all ranks must call it.
    """
    if objective.balance_totals is None or (engine.world == 1 and len(batches) == 1):
        return None
    parts = []
    for batch in batches:
        objective.forward(engine, batch, logits_to_keep=1)
        parts.append(objective.balance_totals(batch.is_real))
    return engine.sum(torch.stack(parts).sum(0))


def _forward_row(
    engine: Engine,
    objective: Objective,
    batch: Batch,
    sums: RunningSums,
    experts: ExpertSums,
    num_domains: int,
    divisors: Sequence[float],
    totals: torch.Tensor | None,
) -> torch.Tensor:
    """A row's share of the global objective; its counts go to ``sums`` and ``experts``."""
    num_supervised, num_examples = divisors
    losses_N, targets = objective.token_losses_N(engine, batch)
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


def _out_of_memory(batch: Batch, step: Step) -> str:
    tokens = sum(batch.segment_lengths)
    return (
        f"out of memory on a row of {tokens} tokens and {batch.num_images} images "
        f"(epoch {step.epoch}, step {step.index}): lower train.tokens_per_micro_batch (the batch and its result stay "
        "the same), or set train.activation_checkpointing=true"
    )
