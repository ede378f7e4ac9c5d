"""Parameter groups and AdamW, with every setting that changes the result written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn


class ParameterGroup(Protocol):
    """Parameters that share a learning rate."""

    @property
    def part(self) -> str:
        """Which part of the model they are, such as ``adapter`` or ``projector``."""
        ...

    @property
    def learning_rate(self) -> float:
        """The rate at factor 1 of the schedule."""
        ...

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Them by name."""
        ...


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW as LLaVA-1.5 uses it (Hugging Face defaults: betas 0.9 and 0.999, epsilon 1e-8, no decay).

    Attributes:
        gradient_clipping: largest norm of the global gradient; 0 switches clipping off. Always written into the
            DeepSpeed configuration: DeepSpeed clips at 1.0 when the key is missing.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    gradient_clipping: float = 1.0


def build_optimizer(
    groups: Sequence[ParameterGroup],
    tensors: Mapping[str, torch.Tensor],
    settings: OptimizerSettings,
    fused: bool,
) -> torch.optim.AdamW:
    """AdamW over ``tensors`` (parameters or their fp32 masters, by name), one parameter group per part.

    With gradient g at update t, rate r, decay w and b1, b2, eps of ``settings`` (arXiv 1711.05101, algorithm 2):

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
        x = x - r w x - r (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
        fused: take torch's one kernel for all of it, as on a GPU; else torch chooses.

    Raises:
        KeyError: a group has a parameter that is not among ``tensors``.
    """
    return torch.optim.AdamW(
        [
            {"params": [tensors[name] for name in group.parameters], "lr": group.learning_rate, "part": group.part}
            for group in groups
        ],
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )
