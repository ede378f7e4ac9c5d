"""A checkpoint of DeepSpeed's that holds a program: resume refuses it in one line, and nothing of it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.conftest import free_port
from tests.distributed.test_ranks import rewind

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


class Trap:
    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def train(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", f"--master-port={free_port()}"]
    tiny = ["exp=mix_general", "scale=demo", "model=tiny", "data.num_workers=0", "train.num_threads=1"]
    sizes = ["train.max_steps=2", "train.save_every=1", "train.global_batch_size=2"]
    return subprocess.run(
        [*launcher, "-m", "llava_moe", "train", *tiny, *sizes, *words, f"out={folder / 'run'}"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "LLAVA_MOE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", ["model_states", "optim_states"])
def test_a_program_in_a_zero_checkpoint_is_not_run(name: str, tmp_path: Path) -> None:
    assert train(["parallel=zero2"], tmp_path).returncode == 0
    rewind(tmp_path / "run", 1)
    (file,) = (tmp_path / "run" / "checkpoints" / "step-000001").rglob(f"*{name}.pt")
    content = torch.load(file, weights_only=False)
    torch.save(content | {"trap": Trap(tmp_path / "sprung")}, file)
    resumed = train(["parallel=zero2"], tmp_path)
    assert resumed.returncode != 0 and not (tmp_path / "sprung").exists()
    (line,) = [line for line in resumed.stderr.splitlines() if line.startswith("llava-moe: ")]
    assert "holds more than tensors, and nothing else is unpickled here" in line and "step-000001" in line
