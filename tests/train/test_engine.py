"""The one-process engine: fp32 masters, fp32 accumulation, explicit clipping, exact resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer import OptimizerSettings

CPU = torch.device("cpu")
RATES = [1e-2, 3e-3]


class Model(nn.Module):
    """Two parts with a learning rate each, and a frozen one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(5, 7, dtype=dtype).requires_grad_(False)
        self.adapter = nn.Linear(7, 4, dtype=dtype)
        self.projector = nn.Linear(4, 3, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projector(torch.tanh(self.adapter(self.frozen(x))))


def engine_of(model: nn.Module, clipping: float = 0.0) -> LocalEngine:
    groups = [
        SimpleNamespace(
            part=part,
            learning_rate=rate,
            parameters={name: p for name, p in model.named_parameters() if name.startswith(part)},
        )
        for part, rate in zip(("adapter", "projector"), RATES, strict=True)
    ]
    return LocalEngine(model, groups, OptimizerSettings(gradient_clipping=clipping), CPU)


def batch(number: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(number)).to(dtype)


def loss_of(engine: LocalEngine, number: int) -> torch.Tensor:
    return engine.forward(x=batch(number, next(engine.module.parameters()).dtype)).float().square().mean()


def take_steps(engine: LocalEngine, numbers: Sequence[int], rates: Sequence[float] = RATES) -> list[float]:
    norms = []
    for number in numbers:
        for part in range(2):
            engine.backward(loss_of(engine, 2 * number + part) / 2, is_last=part == 1)
        norms.append(engine.step(rates))
    return norms


def test_fp32_parameters_are_their_own_masters_and_step_as_plain_adamw() -> None:
    model, reference = Model(torch.float32), Model(torch.float32)
    engine = engine_of(model)
    assert all(engine.masters[name] is parameter for name, parameter in engine.live.items())
    parts = zip((reference.adapter, reference.projector), RATES, strict=True)
    optimizer = torch.optim.AdamW([{"params": part.parameters(), "lr": rate} for part, rate in parts], weight_decay=0.0)
    take_steps(engine, range(4))
    for number in range(4):
        loss = sum(reference(batch(2 * number + part, torch.float32)).square().mean() / 2 for part in range(2))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-6, name


def test_bf16_parameters_follow_fp32_masters_that_keep_updates_too_small_for_bf16() -> None:
    model = Model(torch.bfloat16)
    engine = engine_of(model)
    before = {name: parameter.detach().clone() for name, parameter in engine.live.items()}
    rates = [1e-6, 1e-6]  # far below the spacing of bf16 numbers near 0.1: 5e-4
    take_steps(engine, [0], rates)
    for name, parameter in engine.live.items():
        assert engine.masters[name].dtype == torch.float32
        assert parameter.dtype == torch.bfloat16
        assert not engine.masters[name].equal(before[name].float()), name
        assert parameter.equal(engine.masters[name].bfloat16()), name
    unmoved = sum(int(parameter.eq(before[name]).sum()) for name, parameter in engine.live.items())
    assert unmoved > 0.9 * sum(parameter.numel() for parameter in engine.live.values())
    take_steps(engine, [0] * 800, rates)
    assert all(not parameter.equal(before[name]) for name, parameter in engine.live.items())


@pytest.mark.parametrize("num_together", [1, 30, 1 << 25])
def test_micro_batches_add_up_in_fp32(num_together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_moe.train.engine.NUM_CAST_TOGETHER", num_together)
    model = Model(torch.bfloat16)
    engine = engine_of(model)
    expected: dict[str, torch.Tensor] = {}
    for number in range(64):
        fresh = Model(torch.bfloat16)
        fresh(batch(number, torch.bfloat16)).float().square().mean().backward()
        for name, parameter in fresh.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                expected[name] = gradient if name not in expected else expected[name] + gradient
        engine.backward(loss_of(engine, number), is_last=number == 63)
    for name, master in engine.masters.items():
        assert master.grad is not None and master.grad.dtype == torch.float32
        assert master.grad.equal(expected[name]), name
        assert not master.grad.equal(master.grad.bfloat16().float()), name  # a bf16 sum would have been rounded
        assert engine.live[name].grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_scales_the_global_gradient_and_zero_is_off(dtype: torch.dtype) -> None:
    seen: dict[float, list[torch.Tensor]] = {}
    norms = {}
    for clipping in (0.0, 1e-3, 1e3):
        engine = engine_of(Model(dtype), clipping)
        grads = seen.setdefault(clipping, [])
        engine.optimizer.register_step_pre_hook(
            lambda *_, engine=engine, grads=grads: grads.extend(m.grad.clone() for m in engine.masters.values())
        )
        norms[clipping] = take_steps(engine, [0])[0]
    raw = torch.cat([gradient.flatten() for gradient in seen[0.0]])
    clipped = torch.cat([gradient.flatten() for gradient in seen[1e-3]])
    assert norms[0.0] == norms[1e-3] == norms[1e3] == pytest.approx(float(raw.norm()), rel=1e-5)
    assert float(clipped.norm()) == pytest.approx(1e-3, rel=1e-3)
    assert torch.allclose(clipped / clipped.norm(), raw / raw.norm(), atol=1e-5)
    assert torch.cat([gradient.flatten() for gradient in seen[1e3]]).equal(raw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_engine_goes_on_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    unbroken = engine_of(Model(dtype), 1.0)
    take_steps(unbroken, range(3))
    unbroken.save(tmp_path)
    torch.manual_seed(99)
    restored = engine_of(Model(dtype), 1.0)
    with torch.no_grad():
        for parameter in restored.live.values():
            parameter.normal_()
    restored.load(tmp_path)
    assert take_steps(unbroken, range(3, 7)) == take_steps(restored, range(3, 7))
    for name, master in unbroken.masters.items():
        assert restored.masters[name].equal(master), name
        assert restored.live[name].equal(unbroken.live[name]), name
        for key, value in unbroken.optimizer.state[master].items():
            assert restored.optimizer.state[restored.masters[name]][key].equal(value), (name, key)


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    engine = engine_of(Model(torch.float32))
    engine.save(tmp_path)
    wider = engine_of(nn.Sequential())
    wider.masters["adapter.new"] = torch.zeros(1)
    with pytest.raises(ValueError, match="no state for"):
        wider.load(tmp_path)


def test_a_damaged_optimizer_is_named_before_anything_is_taken_from_it(tmp_path: Path) -> None:
    engine = engine_of(Model(torch.float32))
    take_steps(engine, [0])
    engine.save(tmp_path)
    path = tmp_path / "optimizer.safetensors"
    whole = load_file(path)
    name = "adapter.weight"
    for key in (f"master/{name}", f"exp_avg/{name}", f"exp_avg_sq/{name}", f"step/{name}"):
        for damaged in (torch.full_like(whole[key], float("nan")), torch.zeros(3, 9)):
            save_file(whole | {key: damaged}, path)
            other = engine_of(Model(torch.float32))
            before = other.trained_tensors()
            with pytest.raises(ValueError, match=f"{key.partition('/')[0]} of {name} is damaged"):
                other.load(tmp_path)
            assert all(torch.equal(before[one], tensor) for one, tensor in other.trained_tensors().items())
        save_file({one: tensor for one, tensor in whole.items() if one != key}, path)
        with pytest.raises(ValueError, match=f"no state for {name}"):
            engine_of(Model(torch.float32)).load(tmp_path)
    save_file(whole, path)
    engine_of(Model(torch.float32)).load(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="a named pipe"):
        engine_of(Model(torch.float32)).load(tmp_path)


def test_a_skipped_step_leaves_weights_and_moments_alone() -> None:
    engine, other = engine_of(Model(torch.bfloat16)), engine_of(Model(torch.bfloat16))
    take_steps(engine, [0])
    take_steps(other, [0])
    engine.backward(loss_of(engine, 50) * float("nan"), is_last=True)
    engine.skip()
    assert take_steps(engine, [1]) == take_steps(other, [1])
    for name, master in engine.masters.items():
        assert master.equal(other.masters[name]), name


def test_trained_tensors_are_fp32_copies_of_the_masters() -> None:
    engine = engine_of(Model(torch.bfloat16))
    tensors = engine.trained_tensors()
    assert tensors.keys() == engine.masters.keys() == {
        "adapter.weight", "adapter.bias", "projector.weight", "projector.bias"
    }  # fmt: skip
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    take_steps(engine, [0])
    assert all(tensor.dtype == torch.float32 and tensor.equal(before[name]) for name, tensor in tensors.items())


def test_a_loss_that_reaches_nothing_that_trains_adds_no_gradient() -> None:
    engine = engine_of(nn.Linear(2, 2))
    engine.backward(torch.zeros(()), is_last=True)
    assert all(master.grad is None for master in engine.masters.values())
