"""A checkpoint of DeepSpeed's that holds a program: resume refuses it in one line, and nothing of it is run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed.test_ranks import rewind
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

StartRanks = Callable[..., list[ForkedCommand]]


class Trap:
    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture(scope="module")
def resume(start_ranks: StartRanks, embedded_cache: Path) -> Callable[[Path], ForkedCommand]:
    """Trains two steps under ZeRO 2 in the folder ``run`` of a folder, or goes on there."""
    tiny = ["exp=mix_general", "scale=demo", "model=tiny", "data.num_workers=0", "train.num_threads=1"]
    sizes = ["train.max_steps=2", "train.save_every=1", "train.global_batch_size=2", "parallel=zero2"]

    def train(folder: Path) -> ForkedCommand:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
            (rank,) = start_ranks(1, ["train", *tiny, *sizes, f"out={folder / 'run'}"], folder)
        rank.wait(timeout=300)
        return rank

    return train


@pytest.fixture(scope="module")
def whole(resume: Callable[[Path], ForkedCommand], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert resume(folder).poll() == 0
    return folder / "run"


@pytest.mark.parametrize("name", ["model_states", "optim_states"])
def test_a_program_in_a_zero_checkpoint_is_not_run(
    name: str, whole: Path, resume: Callable[[Path], ForkedCommand], tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    rewind(tmp_path / "run", 1)
    (file,) = (tmp_path / "run" / "checkpoints" / "step-000001").rglob(f"*{name}.pt")
    content = torch.load(file, weights_only=False)
    torch.save(content | {"trap": Trap(tmp_path / "sprung")}, file)
    resumed = resume(tmp_path)
    assert resumed.poll() not in (0, None) and not (tmp_path / "sprung").exists()
    (line,) = [line for line in resumed.output.splitlines() if line.startswith("llava-moe: ")]
    assert "holds more than tensors, and nothing else is unpickled here" in line and "step-000001" in line
