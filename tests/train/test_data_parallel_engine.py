"""The engine of several whole models: buckets, and gradients that some ranks lack."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.multiprocessing.spawn import spawn

from llava_moe.train.data_parallel_engine import DataParallelEngine
from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer import OptimizerSettings

CPU = torch.device("cpu")
RATES = [1e-2, 3e-3]


class Model(nn.Module):
    """An adapter that every input passes, and a projector that images alone pass."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.adapter = nn.Linear(7, 7, dtype=dtype)
        self.projector = nn.Linear(7, 7, dtype=dtype)

    def forward(self, x: torch.Tensor, has_image: bool) -> torch.Tensor:
        return self.adapter(torch.tanh(self.projector(x)) if has_image else x)


def groups_of(model: nn.Module) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(
            part=part,
            learning_rate=rate,
            parameters={name: p for name, p in model.named_parameters() if name.startswith(part)},
        )
        for part, rate in zip(("adapter", "projector"), RATES, strict=True)
    ]


# Step, micro-batch -> what each of two ranks is shown: the second step shows no image to any, the third to one alone.
SHOWN = [[(True, True), (True, False)], [(False, False), (False, False)], [(False, True), (False, False)]]


def loss_of(engine: LocalEngine | DataParallelEngine, step: int, part: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + 10 * part + rank)
    dtype = next(engine.module.parameters()).dtype
    x = torch.randn(5, 7, generator=generator).to(dtype)
    return engine.forward(x=x, has_image=SHOWN[step][part][rank]).float().square().mean() / 4


def train(engine: LocalEngine | DataParallelEngine, ranks: list[int]) -> list[float]:
    norms = []
    for step in range(len(SHOWN)):
        for part in range(2):
            for rank in ranks:
                engine.backward(loss_of(engine, step, part, rank), is_last=part == 1 and rank == ranks[-1])
        norms.append(engine.step(RATES))
    return norms


def one_rank(rank: int, folder: str, dtype: torch.dtype, num_in_bucket: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = Model(dtype)
    if rank == 1:
        with torch.no_grad():
            model.adapter.weight.add_(1.0)  # as a device of another kind might have drawn it
    engine = DataParallelEngine(model, groups_of(model), OptimizerSettings(gradient_clipping=0.3), CPU, num_in_bucket)
    norms = train(engine, [rank])
    (Path(folder) / f"engine{rank}").mkdir()
    engine.save(Path(folder) / f"engine{rank}")
    tensors = {name: p.detach().float() for name, p in engine.module.named_parameters()}
    save_file(tensors | {"norms": torch.tensor(norms)}, f"{folder}/rank{rank}.safetensors")
    assert bool(engine.trained_tensors()) is (rank == 0) and engine.gather(rank) == [0, 1]
    assert engine.sum(torch.tensor([1.0, rank])).tolist() == [2.0, 1.0]
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize(("dtype", "num_in_bucket"), [(torch.float32, 1), (torch.float32, 10**6), (torch.bfloat16, 60)])
def test_two_ranks_take_the_steps_of_one_process(dtype: torch.dtype, num_in_bucket: int, tmp_path: Path) -> None:
    spawn(one_rank, (str(tmp_path), dtype, num_in_bucket), nprocs=2)
    model = Model(dtype)
    alone = LocalEngine(model, groups_of(model), OptimizerSettings(gradient_clipping=0.3), CPU)
    norms = train(alone, [0, 1])
    for rank in (0, 1):
        found = load_file(tmp_path / f"rank{rank}.safetensors")
        torch.testing.assert_close(found.pop("norms"), torch.tensor(norms), rtol=1e-5, atol=0)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.detach().float(), rtol=1e-6, atol=1e-7)
    # The second step moved the adapter alone, in both.
    alone.save(tmp_path)
    written = load_file(tmp_path / "engine0" / "optimizer.safetensors")
    expected = load_file(tmp_path / "optimizer.safetensors")
    assert written.keys() == expected.keys() and not [*(tmp_path / "engine1").iterdir()]
    assert written["step/adapter.weight"] == 3 and written["step/projector.weight"] == 2
    for name, tensor in expected.items():
        torch.testing.assert_close(written[name], tensor, rtol=1e-5, atol=1e-7)
