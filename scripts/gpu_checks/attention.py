"""Part 3: the attention kernels that the project offers on this device against plain attention in fp32."""

from __future__ import annotations

import time

import torch

from llava_moe.adapters import Lora
from llava_moe.errors import UserError
from llava_moe.model.attention import CHOICES, choose_attention
from scripts.gpu_checks.distances import Bounds, hold
from scripts.gpu_checks.report import Budget, Report
from scripts.gpu_checks.sizes import Sizes
from scripts.gpu_checks.trained import TrainedStage, spec_of

PART = "attention"
BOUNDS = {"fp32": Bounds(1e-5, 1e-3, 1e-2), "bf16": Bounds(5e-3, 0.03, 0.08)}
REFERENCE, COMPILED = "eager", "flex_attention"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check_attention(sizes: Sizes, device: torch.device, report: Report, budget: Budget) -> None:
    """Each kernel in both precisions on a packed row, and its step's seconds."""
    adapter = Lora(r=32)
    plain = TrainedStage(spec_of(sizes.checked, adapter, "fp32", REFERENCE), device)
    # The weights are those that bf16 holds, in every stage.
    TrainedStage(spec_of(sizes.checked, adapter, "bf16", REFERENCE), device, like=plain)
    batches = [plain.packed(sizes.checked_row)]
    reference = plain.gradients(batches)
    # What is compiled comes last: it takes longest.
    for kernel in sorted(set(CHOICES) - {"auto", REFERENCE}, key=lambda one: (one == COMPILED, one)):
        for dtype in ("fp32", "bf16"):
            name = f"{kernel}, {dtype}"
            needed = sizes.compile_seconds if kernel == COMPILED else sizes.check_seconds
            why = _missing(kernel, dtype, device) or budget.allows(needed)
            if why:
                report.skip(PART, name, why)
                continue
            stage = TrainedStage(spec_of(sizes.checked, adapter, dtype, kernel), device, like=plain)
            hold(report, PART, name, reference, stage.gradients(batches), BOUNDS[dtype])
            started = time.perf_counter()
            stage.gradients(batches)
            report.figure(PART, f"{name}: a step", 1000 * (time.perf_counter() - started), "ms")


def _missing(kernel: str, dtype: str, device: torch.device) -> str | None:
    """Why a kernel is not there, in one line; None where it is."""
    if kernel == "flash_attention_2" and dtype == "fp32":
        return "FlashAttention 2 has no fp32"
    try:
        choose_attention(kernel, device, DTYPES[dtype])
    except UserError as error:
        return str(error)
    return None
