"""Part 1: steps in bf16 against fp32, and LLaVA-MoLE's two ways to dispatch against each other."""

from __future__ import annotations

from dataclasses import replace

import torch

from llava_moe.adapters import LlavaMole
from llava_moe.adapters.core.router import Routing
from scripts.gpu_checks.distances import Bounds, hold
from scripts.gpu_checks.report import Budget, Report
from scripts.gpu_checks.sizes import Sizes, checked_adapters
from scripts.gpu_checks.trained import TrainedStage, spec_of

PART = "precision"
HALF = {
    "lora": Bounds(5e-3, 0.03, 0.08),
    "llava_mole": Bounds(5e-3, 0.08, 0.25),
    "mixlora": Bounds(5e-3, 0.25, 1.0),
}
SINGLE = Bounds(1e-5, 1e-4, 1e-3)
DECISIONS = {"lora": 0.0, "llava_mole": 0.05, "mixlora": 0.3}
"""Share of choices that bf16 may make otherwise. Each changes gradients by more than rounding does."""


def check_precision(sizes: Sizes, device: torch.device, report: Report, budget: Budget) -> None:
    """The same weights in both precisions, one step each."""
    for name, adapter in checked_adapters().items():
        if why := budget.allows(sizes.check_seconds):
            report.skip(PART, f"{name}, bf16 against fp32", why)
            continue
        single = TrainedStage(spec_of(sizes.checked, adapter, "fp32"), device)
        half = TrainedStage(spec_of(sizes.checked, adapter, "bf16"), device, like=single)
        batches = [single.packed(sizes.checked_row)]
        reference = single.gradients(batches)
        rounded = half.gradients(batches)
        told = f"{name}, bf16 against fp32"
        hold(report, PART, told, reference, rounded, HALF[name])
        report.check(PART, f"{told}: other choices", other_choices(single, half), DECISIONS[name])
        if isinstance(adapter, LlavaMole):
            # Both stages were rounded together, so the same weights serve the other dispatch.
            ordered = replace(adapter, dispatch="sorted")
            other = TrainedStage(spec_of(sizes.checked, ordered, "fp32"), device, like=single)
            hold(report, PART, f"{name}, sorted against masked", reference, other.gradients(batches), SINGLE)


def other_choices(one: TrainedStage, other: TrainedStage) -> float:
    """The share of experts or factors that two stages chose differently in their last forward pass; 0 without any."""
    (first, second) = (_choices(stage) for stage in (one, other))
    differing = sum(int((first[name] != second[name]).sum()) for name in first)
    return differing / max(1, sum(chosen.numel() for chosen in first.values()))


def _choices(stage: TrainedStage) -> dict[str, torch.Tensor]:
    attached = stage.assembled.attached
    routings = attached.routings() if attached.is_routed else {}
    chosen = {name: one.chosen_BT if isinstance(one, Routing) else one.chosen_SC for name, one in routings.items()}
    return {name: one for name, one in chosen.items() if one is not None}
