"""The wide linear against a plain loop over tokens and experts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from llava_moe.adapters.core.memory_efficient import SeededDropout
from llava_moe.adapters.core.wide_linear import CORES, WideLinear


class FixedGate:
    """M(x) = diag(w (x) 1_r) with given weights [B, T, K]."""

    def __init__(self, weights_BTK: Tensor) -> None:
        self.weights_BTK = weights_BTK
        self.ranks = torch.ones(0)

    def __call__(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        self.ranks = torch.tensor(list(bank.ranks.values()))
        return (self.weights_BTK,)

    def mix(self, z_BTR: Tensor, *decision: Tensor) -> Tensor:
        return z_BTR * decision[0].repeat_interleave(self.ranks, -1)


def loop(wide: WideLinear, x_BTD: Tensor, weights_BTK: Tensor) -> Tensor:
    """y_t = W x_t + b + s * sum_k w_tk B_k (A_k x_t), a token and an expert at a time."""
    rows = []
    for x_D, w_K in zip(x_BTD.flatten(0, 1), weights_BTK.flatten(0, 1), strict=True):
        y_O = wide.base.weight @ x_D
        if wide.base.bias is not None:
            y_O = y_O + wide.base.bias
        start = 0
        for k, rank in enumerate(wide.ranks.values()):
            a_rD, b_Or = wide.lora_A[start : start + rank], wide.lora_B[:, start : start + rank]
            y_O = y_O + wide.scale * w_K[k] * (b_Or @ (a_rD @ x_D))
            start += rank
        rows.append(y_O)
    return torch.stack(rows).view(*x_BTD.shape[:2], -1)


def gradients(output: Tensor, inputs: list[Tensor], upstream: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output, inputs, upstream)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "length", "features_in", "features_out", "ranks"),
    [(1, 1, 3, 5, (1,)), (2, 7, 13, 9, (4,)), (3, 5, 11, 17, (2, 2, 2)), (1, 23, 7, 3, (5, 1, 3))],
)
def test_forward_and_all_gradients_equal_the_loop(
    rows: int, length: int, features_in: int, features_out: int, ranks: tuple[int, ...], bias: bool, core: str
) -> None:
    torch.manual_seed(0)
    base = nn.Linear(features_in, features_out, bias=bias, dtype=torch.float64)
    weights = torch.randn(rows, length, len(ranks), dtype=torch.float64, requires_grad=True)
    wide = WideLinear(base, {f"experts.{k}": rank for k, rank in enumerate(ranks)}, 1.7, FixedGate(weights))
    wide.core = core
    nn.init.normal_(wide.lora_B)
    x = torch.randn(rows, length, features_in, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(rows, length, features_out, dtype=torch.float64)
    inputs = [x, weights, wide.lora_A, wide.lora_B]
    ours, reference = wide(x), loop(wide, x, weights)
    torch.testing.assert_close(ours, reference, atol=1e-12, rtol=1e-12)
    for got, expected in zip(gradients(ours, inputs, upstream), gradients(reference, inputs, upstream), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


def test_without_gate_every_reading_is_written() -> None:
    torch.manual_seed(0)
    wide = WideLinear(nn.Linear(6, 4, dtype=torch.float64), {"": 3}, 2.0)
    nn.init.normal_(wide.lora_B)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(wide(x), loop(wide, x, torch.ones(2, 5, 1)), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_bank_changes_nothing_and_has_the_base_dtype(dtype: torch.dtype) -> None:
    base = nn.Linear(16, 8).to(dtype)
    wide = WideLinear(base, {"": 4}, 2.0)
    x = torch.randn(3, 5, 16, dtype=dtype)
    assert wide.lora_A.dtype == wide.lora_B.dtype == dtype
    assert torch.equal(wide(x), base(x))


def test_same_seed_gives_the_same_start_in_every_dtype() -> None:
    starts = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(5)
        starts.append(WideLinear(nn.Linear(16, 8, device="meta").to_empty(device="cpu").to(dtype), {"": 4}, 1.0).lora_A)
    assert torch.equal(starts[0].bfloat16(), starts[1])
    assert starts[0].abs().max() <= 16**-0.5  # Kaiming-uniform with a = sqrt(5) is U(-1/sqrt(D), 1/sqrt(D))
    assert starts[0].abs().max() > 0.8 * 16**-0.5


@pytest.mark.parametrize("core", CORES)
def test_dropout_zeroes_only_what_the_bank_reads_and_by_one_mask(core: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 10, dtype=torch.float64)
    wide = WideLinear(nn.Linear(10, 6, dtype=torch.float64), {"experts.0": 2, "experts.1": 2}, 1.5, dropout=0.3)
    nn.init.normal_(wide.lora_B)
    wide.core = core
    torch.manual_seed(7)
    ones = torch.ones_like(x)
    dropping = SeededDropout.draw(0.3)
    assert dropping is not None
    mask = dropping(ones)
    if core == "autograd":
        torch.manual_seed(7)
        mask = nn.functional.dropout(ones, 0.3)
    torch.manual_seed(7)
    expected = wide.base(x) + 1.5 * (x * mask) @ wide.lora_A.T @ wide.lora_B.T
    torch.testing.assert_close(wide(x), expected, atol=1e-12, rtol=1e-12)
    assert (mask == 0).any()
    wide.eval()
    torch.testing.assert_close(wide(x), wide.base(x) + 1.5 * x @ wide.lora_A.T @ wide.lora_B.T)


def test_no_dropout_layer_and_no_random_number_at_zero() -> None:
    wide = WideLinear(nn.Linear(4, 4), {"": 2}, 1.0)
    state = torch.get_rng_state()
    wide(torch.ones(1, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(isinstance(module, nn.Dropout) for module in wide.modules())


def test_fp32_bank_serves_a_bf16_base() -> None:
    torch.manual_seed(0)
    wide = WideLinear(nn.Linear(16, 8).bfloat16(), {"": 4}, 2.0)
    wide.lora_A = nn.Parameter(wide.lora_A.detach().float())
    wide.lora_B = nn.Parameter(torch.randn(8, 4))
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    y = wide(x)
    assert y.dtype == torch.bfloat16
    expected = wide.base(x).float() + 2.0 * x.float() @ wide.lora_A.T @ wide.lora_B.T
    torch.testing.assert_close(y.float(), expected, atol=0.05, rtol=0.02)
    y.float().sum().backward()
    assert wide.lora_A.grad is not None and wide.lora_A.grad.dtype == torch.float32


def test_autocast_computes_the_bank_in_its_dtype() -> None:
    torch.manual_seed(0)
    wide = WideLinear(nn.Linear(16, 8), {"": 4}, 2.0)
    nn.init.normal_(wide.lora_B)
    x = torch.randn(2, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = wide(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), wide(x), atol=0.1, rtol=0.05)


def test_split_and_join_are_inverse_and_named_by_expert() -> None:
    wide = WideLinear(nn.Linear(6, 4), {"experts.0": 2, "experts.1": 3}, 1.0)
    nn.init.normal_(wide.lora_B)
    parts = wide.split(wide.lora_A, wide.lora_B)
    assert {name: tuple(tensor.shape) for name, tensor in parts.items()} == wide.expert_shapes()
    assert wide.expert_shapes()["experts.1.lora_B.weight"] == (4, 3)
    assert torch.equal(parts["experts.1.lora_A.weight"], wide.lora_A[2:])
    joined = wide.join(parts)
    assert torch.equal(joined[0], wide.lora_A) and torch.equal(joined[1], wide.lora_B)


def test_copy_is_independent() -> None:
    wide = WideLinear(nn.Linear(6, 4), {"": 2}, 1.0)
    twin = copy.deepcopy(wide)
    nn.init.ones_(twin.lora_B)
    assert not wide.lora_B.any()
