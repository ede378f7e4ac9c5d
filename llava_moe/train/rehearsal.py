"""Before step 1, rows of each kind are tried on all ranks: what would keep them waiting does so here, and is named.

A module that one rank runs and another does not is a collective that one of them never joins (ZeRO-3 collects weights
module by module). Which rows do that may come up after hours of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from llava_moe.data.batch import Batch
from llava_moe.errors import UserError
from llava_moe.train.checkpoint import random_state, set_random_state
from llava_moe.train.collectives import LOST_RANK, tells_of_a_lost_rank
from llava_moe.train.engine import Engine
from llava_moe.train.memory import is_out_of_memory
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer_step import balance_totals_of
from llava_moe.train.pulse import Pulse


@dataclass(frozen=True)
class Scene:
    """A row that this rank tries while the others try theirs.

    Attributes:
        name: in words, the same on all ranks.
        within: what holds while it is tried.
    """

    name: str
    row: Batch
    within: AbstractContextManager[object] = field(default_factory=nullcontext)


def rehearse(engine: Engine, objective: Objective, scenes: Sequence[Scene], pulse: Pulse) -> None:
    """Run each scene forwards and backwards, and leave no trace: every gradient is 0, random numbers go on as before.

    While it lasts, the pulse says which module a rank is in. All ranks call it with scenes of the same names.

    Args:
        engine: the one that trains, without a pulse of its own.

    Raises:
        UserError: a row does not fit into memory, or another rank is lost, in which module of this one.
    """
    random = random_state()
    engine.module.train()
    try:
        for scene in scenes:
            with _modules_told(engine.module, pulse, scene.name), scene.within:
                _try(engine, objective, scene, pulse)
            pulse.at(f"the rehearsal ({scene.name}), behind its last module", waits=True)
            engine.barrier()
    except RuntimeError as error:
        # Collectives of two modules that meet end a process over gloo, where they hang over NCCL.
        if not tells_of_a_lost_rank(error):
            raise
        raise UserError(f"{LOST_RANK}; this one was in {pulse.place.phase}") from error
    finally:
        set_random_state(random)
    if engine.can_skip:
        engine.skip()


def _try(engine: Engine, objective: Objective, scene: Scene, pulse: Pulse) -> None:
    row = scene.row.to(engine.device)
    try:
        totals = balance_totals_of(engine, objective, [row])
        losses_N, _ = objective.token_losses_N(engine, row)
        loss = losses_N.sum()
        if objective.auxiliary_loss is not None:
            loss = loss + objective.auxiliary_loss(row.is_real, totals)
        # 0 times what is not finite is no 0, and DeepSpeed's sums of gradients are cleared by a step alone.
        is_finite = torch.isfinite(loss.detach()).to(torch.float64)
        if float(engine.sum(is_finite)) == engine.world:
            pulse.at(f"the rehearsal ({scene.name}), backwards", waits=True)
            engine.backward(0.0 * loss, is_last=False)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory before step 1, in the rehearsal ({scene.name}): a row of {row.num_tokens:,} tokens, which "
            "train.tokens_per_micro_batch allows, does not fit: lower it, or set train.activation_checkpointing=true"
        ) from error


@contextmanager
def _modules_told(model: nn.Module, pulse: Pulse, scene: str) -> Iterator[None]:
    """Within, the pulse says which module this rank enters forwards.

    Not backwards: torch's hooks for that change what a module gives, and warn where it gives no tensor.
    """

    def telling(name: str) -> Callable[..., None]:
        # Each may be where weights are collected: who stands in it waits for the others.
        return lambda *_: pulse.at(f"the rehearsal ({scene}), forwards into {name}", waits=True, is_quick=True)

    handles = [
        # In front of DeepSpeed's own, which wait for the others.
        module.register_forward_pre_hook(telling(name or "the model"), prepend=True)
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
