"""What the model's side gives to training, as plain callables, and the cross-entropy of a row that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llava_moe.data.batch import Batch
from llava_moe.train.engine import Engine
from llava_moe.train.expert_sums import ExpertTotals
from llava_moe.train.loss import Targets, cross_entropy_N, targets_of


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
        mark_prompts: told the ``labels [1, T]`` of a row, and the number of its segments, before its forward.
    """

    inputs_of: Callable[[Batch], Mapping[str, Any]]
    load_balance_coef: float = 0.0
    auxiliary_loss: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] | None = None
    balance_totals: Callable[[torch.Tensor], torch.Tensor] | None = None
    expert_totals: Callable[[torch.Tensor, int], ExpertTotals] | None = None
    mark_prompts: Callable[[torch.Tensor, int], None] | None = None

    def forward(self, engine: Engine, batch: Batch, logits_to_keep: torch.Tensor | int) -> Any:
        """The model's output on a row; its logits are those of these positions, or of the last so many.

        With several ranks all must call it the same number of times.
        """
        if self.mark_prompts is not None:
            self.mark_prompts(batch.labels, len(batch.segment_lengths))
        return engine.forward(**self.inputs_of(batch), logits_to_keep=logits_to_keep)

    def token_losses_N(self, engine: Engine, batch: Batch) -> tuple[torch.Tensor, Targets]:
        """The cross-entropy of a row's N supervised tokens, fp32 ``[N]`` in nats, and which tokens they are.

        With several ranks all must call it the same number of times.
        """
        targets = targets_of(batch)
        output = self.forward(engine, batch, logits_to_keep=targets.positions_N)
        return cross_entropy_N(output.logits[0], targets), targets
