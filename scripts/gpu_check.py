"""Checks and measures training on one GPU, within eight minutes, without a network or downloaded weights.

    python scripts/gpu_check.py --out docs/evidence/gpu/h200.json     # needs a GPU
    python scripts/gpu_check.py --tiny                                # the same code on a CPU, in seconds

1. ``precision``: steps of LoRA, LLaVA-MoLE and MixLoRA in bf16 against fp32; sorted against masked dispatch.
2. ``packing``: examples packed into one row against each of them alone.
3. ``attention``: each attention kernel that is there against plain attention in fp32.
4. ``step``: a step of stage 2 of random weights of Vicuna-7B and CLIP-L/336: time, MFU, memory beside what
   ``llava-moe plan`` foretells, kernels and waits.

What does not fit into the minutes that are left is skipped, and said to be. The exit status is 0 only where every check
that ran passed. Only a process that measured a GPU writes a file; it is written again after each finding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from llava_moe.errors import UserError
from scripts.gpu_checks.attention import check_attention
from scripts.gpu_checks.machine import commit_here, describe
from scripts.gpu_checks.packing import check_packing
from scripts.gpu_checks.precision import check_precision
from scripts.gpu_checks.report import Broken, Budget, Report, write_evidence
from scripts.gpu_checks.sizes import full_sizes, tiny_sizes
from scripts.gpu_checks.steps import ELSEWHERE, check_steps

MINUTES = 8.0
PARTS = {"precision": check_precision, "packing": check_packing, "attention": check_attention, "step": check_steps}


def main(words: Sequence[str]) -> int:
    """Run the parts one after another; the exit status."""
    given = _parser().parse_args(words)
    on_gpu = not given.tiny and given.device != "cpu"
    if on_gpu and not torch.cuda.is_available():
        sys.stderr.write("torch sees no CUDA device: with --tiny the same code runs on a CPU, and measures nothing\n")
        return 2
    commit = given.commit or commit_here()
    if on_gpu and given.out and commit is None:
        sys.stderr.write("this folder is no git checkout, and figures are of a commit: say which with --commit=HASH\n")
        return 2
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    report = Report(on_gpu)
    write = None
    if on_gpu:
        machine = describe(device, commit or "unknown")
        report.told(", ".join(f"{key} {value}" for key, value in machine.items()))
        if given.out:
            write = partial(write_evidence, given.out, machine)
            report.kept = partial(write, is_complete=False)
    else:
        report.told(
            f"tiny, on a CPU: the code is run through and no figure is measured; plans are of {ELSEWHERE}; no file is "
            "written"
        )
    run_parts(given.parts, device, report, Budget(60 * given.minutes))
    status = report.close()
    if write is not None:
        write(report, is_complete=True)
        report.told(f"figures: {given.out}")
    return status


def run_parts(parts: Sequence[str], device: torch.device, report: Report, budget: Budget) -> None:
    """Run these parts; one that ends with an error fails, and the next begins."""
    sizes = full_sizes() if device.type == "cuda" else tiny_sizes()
    # Trap: convolutions are in TF32 unless they are told otherwise, and the checks compare fp32.
    with torch.backends.cudnn.flags(allow_tf32=False):
        for part in parts:
            try:
                PARTS[part](sizes, device, report, budget)
            except (UserError, RuntimeError, ValueError, AssertionError, ImportError) as error:
                told = str(error).strip().splitlines() or [""]
                report.add(Broken(part, "it ended before its end", f"{type(error).__name__}: {told[0]}"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of the figures, written on a GPU alone")
    parser.add_argument("--tiny", action="store_true", help="run the same code on a CPU, tiny; nothing is measured")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: as --tiny")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of the whole, {MINUTES:g} if not given")
    parser.add_argument("--commit", help="of this code, where it is no git checkout")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all, if not given")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
