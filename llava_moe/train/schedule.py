"""Learning-rate schedule: linear warm-up, then half a cosine to zero (``get_cosine_schedule_with_warmup``)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A factor on each group's learning rate, by optimizer step.

    factor(s) = s / w for s < w, else (1 + cos(pi * (s - w) / (n - w))) / 2, with w warm-up steps of n; step 0 of a
    warm-up has factor 0 in Hugging Face's form, which LLaVA trains with.

    Attributes:
        num_steps: optimizer steps of the whole run.
        warmup_ratio: share of them that warms up, rounded up to a whole step.
    """

    num_steps: int
    warmup_ratio: float = 0.03

    @property
    def num_warmup_steps(self) -> int:
        return math.ceil(self.num_steps * self.warmup_ratio)

    def factor(self, step: int) -> float:
        """Factor of the optimizer step with this number, counted from 0."""
        warmup = self.num_warmup_steps
        if step < warmup:
            return step / max(1, warmup)
        progress = (step - warmup) / max(1, self.num_steps - warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
