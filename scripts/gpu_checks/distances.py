"""How far two steps on the same examples are from each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.gpu_checks.report import Report
from scripts.gpu_checks.trained import Passed

NOTABLE = 1e-3
"""Of the whole gradient's norm: what is smaller is not held against its own."""


@dataclass(frozen=True)
class Bounds:
    """Largest distances, as shares.

    Attributes:
        objective: of the objective.
        gradient: of the norm of the whole gradient.
        tensor: of the norm of the gradient of the worst tensor.
    """

    objective: float
    gradient: float
    tensor: float


def hold(report: Report, part: str, name: str, reference: Passed, found: Passed, bounds: Bounds) -> None:
    """Check a step against another that should be equal."""
    objective = abs(found.objective - reference.objective) / abs(reference.objective)
    report.check(part, f"{name}: loss", objective, bounds.objective)
    whole, worst, tensor = gradient_distances(reference.gradients, found.gradients)
    report.check(part, f"{name}: gradient", whole, bounds.gradient)
    report.check(part, f"{name}: gradient of the worst tensor", worst, bounds.tensor, tensor)


def gradient_distances(reference: dict[str, Tensor], found: dict[str, Tensor]) -> tuple[float, float, str]:
    """|f - r| / |r| over all tensors together, the same of the worst tensor, and its name; infinite where others are
    there."""
    if not reference or reference.keys() != found.keys():
        return float("inf"), float("inf"), "other tensors have gradients"
    apart = {name: float((found[name].double() - one.double()).norm()) for name, one in reference.items()}
    norms = {name: float(one.double().norm()) for name, one in reference.items()}
    whole = float(torch.tensor(list(norms.values()), dtype=torch.float64).norm())
    shares = {name: apart[name] / max(norms[name], NOTABLE * whole, 1e-30) for name in apart}
    worst = max(shares, key=lambda name: _ordered(shares[name]))
    total = float(torch.tensor(list(apart.values()), dtype=torch.float64).norm())
    return total / max(whole, 1e-30), shares[worst], worst


def _ordered(share: float) -> float:
    return float("inf") if share != share else share
