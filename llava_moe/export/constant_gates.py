"""M(x) of y = W x + s B M(x) A x held constant: one expert alone, all alike, or the mean over a domain's tokens.

Shape suffixes: B rows, T tokens, N tokens that are counted, D in, O out, R bank width (reading), W (writing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_moe.adapters.core.router import TokenRouter
from llava_moe.adapters.core.wide_linear import Gate, WideLinear
from llava_moe.adapters.methods.mixlora_released import ReleasedLinear
from llava_moe.adapters.methods.mole_experts import ExpertBank
from llava_moe.adapters.methods.mole_gate import FollowGate

Mixings = Mapping[str, Tensor]
"""M [W, R] of every gated linear, by its module name."""


class ConstantGate(nn.Module):
    """The gate that mixes alike for every token."""

    def __init__(self, mixing_WR: Tensor) -> None:
        super().__init__()
        self.mixing_WR = mixing_WR

    def forward(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """Nothing to decide."""
        return ()

    def mix(self, z_BTR: Tensor, *decision: Tensor) -> Tensor:
        """M z."""
        return F.linear(z_BTR, self.mixing_WR.to(z_BTR))


class RecordingGate(nn.Module):
    """Another gate, and the sum of its M(x) over the tokens that are counted, which ``is_counted_BT`` says."""

    def __init__(self, gate: Gate, num_read: int) -> None:
        super().__init__()
        # In a tuple, so that a gate with parameters of its own is not registered under another name.
        self.inner, self.num_read = (gate,), num_read
        self.is_counted_BT: Tensor | None = None
        self.sum_WR: Tensor | None = None
        self.num_tokens = 0

    def forward(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """The inner gate's decision, counted."""
        (gate,) = self.inner
        decision = gate(x_BTD, z_BTR, bank)
        assert self.is_counted_BT is not None, "say which tokens count before the forward pass"
        columns = []
        for column in range(self.num_read):
            # Column j of M(x) is what becomes of the j-th unit vector.
            unit_BTR = torch.zeros_like(z_BTR, dtype=torch.float32)
            unit_BTR[..., column] = 1
            u_NW = gate.mix(unit_BTR, *decision)[self.is_counted_BT]
            columns.append(u_NW.double().sum(0))
        sum_WR = torch.stack(columns, -1)
        self.sum_WR = sum_WR if self.sum_WR is None else self.sum_WR + sum_WR
        self.num_tokens += int(self.is_counted_BT.sum())
        return decision

    def mix(self, z_BTR: Tensor, *decision: Tensor) -> Tensor:
        """The inner gate's."""
        mixed: Tensor = self.inner[0].mix(z_BTR, *decision)
        return mixed


def wide_linears(model: nn.Module) -> dict[str, WideLinear]:
    """Every wide linear of a model by its module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, WideLinear)}


def gated(model: nn.Module) -> dict[str, WideLinear]:
    """The wide linears whose M depends on the input."""
    return {name: wide for name, wide in wide_linears(model).items() if wide.gate is not None}


def spans(ranks: Mapping[str, int]) -> dict[str, slice]:
    """Where each named part of a bank lies."""
    found, start = {}, 0
    for name, rank in ranks.items():
        found[name] = slice(start, start + rank)
        start += rank
    return found


def has_experts(wide: WideLinear) -> bool:
    """Whether the bank's parts are experts, each a LoRA of its own, and not factors that mean nothing alone."""
    return wide.gate is not None and not any(name.startswith("factors.") for name in wide.ranks)


def can_be_held(wide: WideLinear) -> bool:
    """Whether the linear computes through its gate's M; the released MixLoRA's builds its update otherwise."""
    return not isinstance(wide, ReleasedLinear)


def scale_in_gate(wide: WideLinear, expert: str) -> float:
    """What a gate multiplies an expert's weight with: experts trained apart have scales of their own."""
    scales = {f"experts.{one.name}": one.scale for one in wide.experts} if isinstance(wide, ExpertBank) else {}
    return scales.get(expert, wide.scale) / wide.scale


def banks(model: nn.Module) -> dict[str, WideLinear]:
    """The wide linears that hold experts or factors to choose from; an expert trained apart may be alone in its own."""
    return {
        name: wide
        for name, wide in wide_linears(model).items()
        if wide.gate is not None or isinstance(wide, ExpertBank)
    }


def weighted_experts(wide: WideLinear, weights: Mapping[str, float]) -> Tensor:
    """M [W, R] that gives each named expert a weight: B_k reads what A_k, or the one A of all, has read."""
    writes, reads = spans(wide.ranks), spans(wide.read_ranks)
    mixing_WR = torch.zeros(sum(wide.ranks.values()), sum(wide.read_ranks.values()), dtype=torch.float64)
    for expert, weight in weights.items():
        read = reads.get(expert) or next(iter(reads.values()))
        own = weight * scale_in_gate(wide, expert)
        mixing_WR[writes[expert], read] = own * torch.eye(wide.ranks[expert], dtype=torch.float64)
    return mixing_WR


def expert_names(model: nn.Module) -> tuple[str, ...]:
    """The experts of all banks, in order; none where there is nothing to choose from."""
    if not gated(model):
        return ()
    return tuple(dict.fromkeys(name for wide in banks(model).values() for name in wide.ranks))


def one_expert(model: nn.Module, expert: str) -> dict[str, Tensor]:
    """Mixings under which one expert serves every token; a bank that does not have it adds nothing."""
    return {
        name: weighted_experts(wide, {expert: 1.0} if expert in wide.ranks else {})
        for name, wide in banks(model).items()
    }


def all_alike(model: nn.Module) -> dict[str, Tensor]:
    """Mixings that weight each expert by 1/K, with K those that the bank's gate chooses from.

    A gate over a whole block may weigh experts that have no part in one of its linears.
    """
    mixings = {}
    for name, wide in gated(model).items():
        among = len(wide.gate.leader.widths) if isinstance(wide.gate, FollowGate) else len(wide.ranks)
        mixings[name] = weighted_experts(wide, dict.fromkeys(wide.ranks, 1 / among))
    return mixings


def expert_shares(wide: WideLinear, mixing_WR: Tensor) -> dict[str, float]:
    """The weight of each expert in a constant M: the mean of its span's diagonal."""
    writes, reads = spans(wide.ranks), spans(wide.read_ranks)
    return {
        expert: float(mixing_WR[write, reads.get(expert) or next(iter(reads.values()))].diagonal().mean())
        / scale_in_gate(wide, expert)
        for expert, write in writes.items()
    }


@contextmanager
def held(model: nn.Module, mixings: Mixings) -> Iterator[None]:
    """Run ``model`` with constant mixings in place of its gates; linears not named keep theirs."""
    with _replaced(model, {name: ConstantGate(mixing_WR) for name, mixing_WR in mixings.items()}):
        yield


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, RecordingGate]]:
    """Sum M(x) of every gated linear over the forward passes made inside."""
    recorders = {
        name: RecordingGate(wide.gate, sum(wide.read_ranks.values()))
        for name, wide in gated(model).items()
        if wide.gate is not None
    }
    with _replaced(model, recorders):
        yield recorders


@contextmanager
def silenced(model: nn.Module) -> Iterator[None]:
    """Run ``model`` as if its adapter were not there: M = 0, so y = W x."""
    linears = wide_linears(model)
    nothing = {name: torch.zeros(wide.width, len(wide.lora_A)) for name, wide in linears.items()}
    with held(model, nothing):
        yield


@contextmanager
def _replaced(model: nn.Module, gates: Mapping[str, nn.Module]) -> Iterator[None]:
    linears = wide_linears(model)
    before = {name: linears[name].gate for name in gates}
    # In expert order a block's linears see other tokens than its gates were told of.
    sorting = [module for module in model.modules() if isinstance(module, TokenRouter) and module.is_sorted]
    try:
        for router in sorting:
            router.is_sorted = False
        for name, gate in gates.items():
            _put(linears[name], gate)
        yield
    finally:
        for name, old in before.items():
            _put(linears[name], old)
        for router in sorting:
            router.is_sorted = True


def _put(wide: WideLinear, gate: Any) -> None:
    """Set the gate, a module or not: torch registers the one and refuses the other in its place."""
    del wide.gate
    wide.gate = gate
