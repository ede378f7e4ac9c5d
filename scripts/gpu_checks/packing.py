"""Part 2: examples packed into one row against each of them alone."""

from __future__ import annotations

import torch

from llava_moe.plan.dummy_rows import Row
from scripts.gpu_checks.distances import Bounds, hold
from scripts.gpu_checks.report import Budget, Report
from scripts.gpu_checks.sizes import Sizes, checked_adapters
from scripts.gpu_checks.trained import TrainedStage, spec_of

PART = "packing"
SINGLE = Bounds(1e-5, 1e-4, 1e-3)
# In bf16 a row's products round otherwise than an example's: some tokens then go to another expert, and where all
# tokens of an example do (MixLoRA) nothing is left to compare.
HALF = {"lora": Bounds(5e-3, 0.03, 0.08), "llava_mole": Bounds(5e-3, 0.15, 0.6)}
TOKEN_LOSS = {"lora": 0.1, "llava_mole": 0.5}
TOKEN_LOSS_FP32 = 1e-3
"""Nats by which a token's loss may differ."""


def check_packing(sizes: Sizes, device: torch.device, report: Report, budget: Budget) -> None:
    """Losses token by token, and the gradient of a step whose examples lie in one row or in one each."""
    adapters = checked_adapters()
    cases = [(name, "fp32", TOKEN_LOSS_FP32, SINGLE) for name in adapters]
    cases += [(name, "bf16", TOKEN_LOSS[name], bounds) for name, bounds in HALF.items()]
    for name, dtype, token_loss, bounds in cases:
        if why := budget.allows(sizes.check_seconds):
            report.skip(PART, f"{name}, {dtype}", why)
            continue
        stage = TrainedStage(spec_of(sizes.checked, adapters[name], dtype), device)
        check_packed(stage, sizes.checked_row, f"{name}, {dtype}", token_loss, bounds, report)


def check_packed(stage: TrainedStage, row: Row, name: str, token_loss: float, bounds: Bounds, report: Report) -> None:
    """Hold a row against its examples alone."""
    packed, apart = stage.packed(row), stage.apart(row)
    in_row = stage.token_losses_N(packed)
    by_itself = torch.cat([stage.token_losses_N(batch) for batch in apart])
    report.check(PART, f"{name}: worst token's loss", float((in_row - by_itself).abs().max()), token_loss)
    hold(report, PART, name, stage.gradients(apart), stage.gradients([packed]), bounds)
