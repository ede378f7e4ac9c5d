"""Part 1: steps in bf16 against fp32, and LLaVA-MoLE's two ways to dispatch against each other."""

from __future__ import annotations

from dataclasses import replace

import torch

from llava_moe.adapters import LlavaMole
from scripts.gpu_checks.choices import factors_given, factors_noted, other_choices
from scripts.gpu_checks.distances import Bounds, hold
from scripts.gpu_checks.report import Budget, Report
from scripts.gpu_checks.sizes import Sizes, checked_adapters
from scripts.gpu_checks.trained import TrainedStage, spec_of

PART = "precision"
HALF = {
    "lora": Bounds(5e-3, 0.03, 0.08),
    "llava_mole": Bounds(5e-3, 0.08, 0.25),
    "mixlora": Bounds(5e-3, 0.03, 0.12),
}
SINGLE = Bounds(1e-5, 1e-4, 1e-3)
OTHER_CHOICES = {"lora": 0.0, "llava_mole": 0.05, "mixlora": 0.3}
"""Share of choices that bf16 may make otherwise; MixLoRA's gradients are compared on the same ones."""


def check_precision(sizes: Sizes, device: torch.device, report: Report, budget: Budget) -> None:
    """The same weights in both precisions, one step each."""
    for name, adapter in checked_adapters().items():
        if why := budget.allows(sizes.check_seconds):
            report.skip(PART, f"{name}, bf16 against fp32", why)
            continue
        single = TrainedStage(spec_of(sizes.checked, adapter, "fp32"), device)
        half = TrainedStage(spec_of(sizes.checked, adapter, "bf16"), device, like=single)
        batches = [single.packed(sizes.checked_row)]
        told = f"{name}, bf16 against fp32"
        with factors_noted() as factors:
            reference = single.gradients(batches)
        half.token_losses_N(batches[0])
        report.check(PART, f"{told}: other choices", other_choices(single, half), OTHER_CHOICES[name])
        with factors_given(factors):
            rounded = half.gradients(batches)
        hold(report, PART, told, reference, rounded, HALF[name])
        if isinstance(adapter, LlavaMole):
            # Both stages were rounded together, so the same weights serve the other dispatch.
            ordered = replace(adapter, dispatch="sorted")
            other = TrainedStage(spec_of(sizes.checked, ordered, "fp32"), device, like=single)
            hold(report, PART, f"{name}, sorted against masked", reference, other.gradients(batches), SINGLE)
