"""DeepSpeed's own files, as earlier run folders hold them: they are read, and a program in them is not run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed.conftest import free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PROGRAM = """
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llava_moe.errors import UserError
from llava_moe.train.deepspeed_engine import DeepSpeedEngine, ZeroSettings, start_processes
from llava_moe.train.optimizer import OptimizerSettings

@dataclass
class Group:
    part: str
    learning_rate: float
    parameters: dict

def engine_of(seed):
    torch.manual_seed(seed)
    model = nn.Linear(3, 5)
    groups = [Group("adapter", 1e-2, dict(model.named_parameters()))]
    return DeepSpeedEngine(model, groups, OptimizerSettings(), ZeroSettings(2), torch.device("cpu"), torch.float32)

def step(engine):
    engine.backward(engine.forward(input=torch.arange(6.0).reshape(2, 3)).square().mean(), True)
    engine.step([1e-2])
    return {name: tensor.clone() for name, tensor in engine.trained_tensors().items()}

start_processes()
folder = Path(sys.argv[2])
if sys.argv[1] == "write":
    engine = engine_of(0)
    step(engine)
    engine.engine.save_checkpoint(str(folder), tag=engine.tag, exclude_frozen_parameters=True)
    (folder / "random-rank0.safetensors").touch()
    torch.save(step(engine), folder / "next.pt")
else:
    engine = engine_of(1)
    try:
        engine.load(folder)
    except UserError as error:
        raise SystemExit(f"refused: {error}")
    again, expected = step(engine), torch.load(folder / "next.pt")
    assert again.keys() == expected.keys() and all(torch.equal(again[name], expected[name]) for name in again)
    # What is saved next is whole, and holds what was read.
    (folder / "whole").mkdir()
    engine.save(folder / "whole")
    other = engine_of(2)
    other.load(folder / "whole")
    left, right = step(engine), step(other)
    assert all(torch.equal(left[name], right[name]) for name in left)
"""


class Trap:
    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.mkdir, (self.place,)


def run(what: str, folder: Path) -> subprocess.CompletedProcess[str]:
    meeting = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment = os.environ | meeting | {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, what, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    ended = run("write", folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_files_of_deepspeeds_own_go_on_to_the_bit_and_are_whole_from_then_on(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "engine")
    ended = run("read", tmp_path / "engine")
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in (tmp_path / "engine" / "whole").iterdir()] == ["optimizer.safetensors"]


@pytest.mark.parametrize("name", ["model_states", "optim_states"])
def test_a_program_in_a_zero_checkpoint_is_not_run(name: str, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "engine")
    (file,) = (tmp_path / "engine").rglob(f"*{name}.pt")
    content = torch.load(file, weights_only=False)
    torch.save(content | {"trap": Trap(tmp_path / "sprung")}, file)
    ended = run("read", tmp_path / "engine")
    assert ended.returncode == 1 and not (tmp_path / "sprung").exists()
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("refused: ")]
    assert "holds more than tensors, and nothing else is unpickled here" in line
