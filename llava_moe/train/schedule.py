"""Learning-rate schedule: linear warm-up, then half a cosine to zero (``get_cosine_schedule_with_warmup``)."""

from __future__ import annotations

import math
from dataclasses import dataclass

FEW_STEPS = 20
"""Below so many optimizer steps a run learns little, whatever its data."""


@dataclass(frozen=True)
class Schedule:
    """A factor on each group's learning rate, by optimizer step.

    factor(s) = s / w for s < w, else (1 + cos(pi * (s - w) / (n - w))) / 2, with w warm-up steps of n; step 0 of a
    warm-up has factor 0 in Hugging Face's form, which LLaVA trains with. One step at least is no warm-up, so that a run
    shorter than its warm-up learns all the same; a run of one step trains at factor 1.

    Attributes:
        num_steps: optimizer steps of the whole run.
        warmup_ratio: share of them that warms up, rounded up to a whole step, and never all of them.
    """

    num_steps: int
    warmup_ratio: float = 0.03

    @property
    def num_warmup_steps(self) -> int:
        """w = min(ceil(n * ``warmup_ratio``), n - 1), and at least 0."""
        return max(0, min(math.ceil(self.num_steps * self.warmup_ratio), self.num_steps - 1))

    def factor(self, step: int) -> float:
        """Factor of the optimizer step with this number, counted from 0."""
        warmup = self.num_warmup_steps
        if step < warmup:
            return step / max(1, warmup)
        progress = (step - warmup) / max(1, self.num_steps - warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def few_steps_note(num_steps: int, global_batch_size: int, max_steps: int | None) -> str | None:
    """A line on a run of fewer than ``FEW_STEPS`` optimizer steps, with what to change; None for a longer one.

    Args:
        max_steps: what ended the run early (``train.max_steps``), if anything did.
    """
    if num_steps >= FEW_STEPS:
        return None
    steps = "1 optimizer step" if num_steps == 1 else f"{num_steps} optimizer steps"
    remedy = f"a smaller train.global_batch_size ({global_batch_size} now) or a larger train.epochs"
    if max_steps is not None:
        remedy = f"a larger train.max_steps ({max_steps} now)"
    return f"{steps} in all, fewer than {FEW_STEPS}: the model learns little from so few; give {remedy}"
