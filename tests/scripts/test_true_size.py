"""The commands of the run at true size, on a tiny model; and bf16 products on a processor that has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llava_moe.cli import run
from scripts import true_size

ROOT = Path(__file__).resolve().parents[2]
TINY = [word if word != "model=random_7b" else "model=tiny" for word in true_size.COMMON]


def test_its_stages_train_one_after_another(
    embedded_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    monkeypatch.chdir(tmp_path)
    words = ["train", *TINY, "train.max_steps=2", "train.num_threads=1"]
    assert run([*words, *true_size.PROJECTOR, "out=first"]) == 0
    assert run([*words, *true_size.HALF_TOWER, "stage.vision_layers=[1,1]", "out=half"]) == 0
    assert run([*words, *true_size.EXPERTS, "init_from=first", "out=second"]) == 0
    # The file by which the script knows when to kill the run.
    assert (tmp_path / "second" / "checkpoints" / "step-000001" / "COMPLETE").is_file()


def test_products_of_bf16_are_those_of_fp32_rounded() -> None:
    program = """
import sys
import torch
sys.argv = ["llava-moe", "--version"]
from scripts.bf16_on_cpu import main
assert main() == 0
torch.manual_seed(0)
for left, right in ((torch.randn(5, 7), torch.randn(7, 3)), (torch.randn(2, 5, 7), torch.randn(2, 7, 3))):
    half = (left.bfloat16() @ right.bfloat16()).float()
    assert torch.equal(half, (left.bfloat16().float() @ right.bfloat16().float()).bfloat16().float())
    assert torch.allclose(left @ right, torch.einsum("...ij,...jk->...ik", left, right), atol=1e-6)
weight = torch.nn.Linear(7, 3, bias=False, dtype=torch.bfloat16)
weight(torch.randn(4, 7, dtype=torch.bfloat16)).sum().backward()
assert weight.weight.grad.dtype == torch.bfloat16 and bool(weight.weight.grad.isfinite().all())
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("llava-moe ")
