"""MoLE's gate: experts weighted, once for each example, by what they would write (arXiv 2404.13628, eq. 9-11).

Shape suffixes: B rows, T tokens, S examples, N experts, K of them that a gate weighs, X entries of the gate's input, R
bank width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.router import ExampleRouting, KeepsDtype
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.adapters.methods.mole_experts import ExpertBank

# Added to a mean square: far below that of the smallest deltas, it only keeps a gate whose experts add nothing finite.
_SMALLEST_SQUARE = 1e-20


class ExpertGate(KeepsDtype):
    """G = softmax(RMS(d_0 + ... + d_{K-1}) e / tau), with + for "end to end" and d_i what expert i adds.

    The paper flattens what the experts write at every position of a fixed length; here d_i is its mean over the
    example's prompt, so that e does not depend on a length. Its normalisation is not specified: here the root mean
    square, without parameters. tau is learned as its logarithm; e starts at zero, which weighs all alike.

    Both parameters are fp32 at least and stay so when the model is cast; logits and softmax are computed in fp32 at
    least. Weights are kept from a prompt's forward pass through its decoding, and with each call of the model for its
    recomputation: layers are computed again from the last to the first, and long before the one that decides.

    Args:
        segments: tells examples apart, and a conversation that goes on.
        experts: names of all N.
        widths: entries of d_i for each of the K that are weighed here, by name and in the order of d.
        temperature: tau at the start.
        spans_layers: whether layers follow it that do not decide.
    """

    def __init__(
        self,
        segments: Segments,
        experts: Sequence[str],
        widths: Mapping[str, int],
        temperature: float,
        dtype: torch.dtype,
        device: torch.device,
        spans_layers: bool = False,
    ) -> None:
        super().__init__()
        self.spans_layers = spans_layers
        self.segments, self.experts, self.widths = segments, tuple(experts), dict(widths)
        dtype = torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float32
        e_XK = torch.zeros(sum(widths.values()), len(widths), dtype=dtype, device=device)
        self.weight = nn.Parameter(e_XK)
        self.log_temperature = nn.Parameter(torch.full((1,), math.log(temperature), dtype=dtype, device=device))
        self.weights_SK: Tensor | None = None
        self.held_SK: Tensor | None = None
        self.kept_SK: Tensor | None = None
        self.routing: ExampleRouting | None = None
        self.kept: frozenset[str] | None = None

    def forward(self, deltas_SX: Tensor) -> Tensor:
        """Return the logits [S, K], already divided by tau, of the experts' deltas end to end."""
        dtype = torch.promote_types(torch.promote_types(self.weight.dtype, torch.float32), deltas_SX.dtype)
        with torch.autocast(deltas_SX.device.type, enabled=False):
            d_SX = deltas_SX.to(dtype)
            normal_SX = d_SX * (d_SX.square().mean(-1, keepdim=True) + _SMALLEST_SQUARE).rsqrt()
            return normal_SX @ self.weight.to(dtype) * (-self.log_temperature.to(dtype)).exp()

    def decide(self, deltas: Callable[[], Tensor]) -> None:
        """Weigh the experts of every example of the call: :meth:`weights` and :attr:`routing` tell how.

        Computed again, it leaves what the forward pass decided as it is.

        Args:
            deltas: computes [S, X]; not asked where the call goes on with a conversation.

        Raises:
            ValueError: the call goes on with a prompt that was not seen here, or with another number of rows; or the
                forward pass leaves its gradient to a recomputation that begins after the layers that follow.
        """
        call, self.held_SK = self.segments.call, None
        if call.continues_cache:
            self.weights_SK = self._go_on(call.num_segments)
        else:
            weights_SK = self._weigh(self(deltas()))
            if self.segments.is_recomputing and self in call.decided:
                return
            self.weights_SK = weights_SK
            if self.segments.is_recomputing:
                return
            self.kept_SK = weights_SK.detach()
            if torch.is_grad_enabled():
                call.decided[self] = weights_SK.detach().requires_grad_(weights_SK.requires_grad)
            elif self.spans_layers and call.facts.is_training and call.facts.records_graph:
                raise ValueError(
                    "granularity=network decides in one layer for all: reentrant activation checkpointing loses its "
                    "gradient; set use_reentrant=False"
                )
        self.routing = ExampleRouting(self._of_all(self.weights_SK), None, call.of_tokens()[0])

    def _go_on(self, num_rows: int) -> Tensor:
        if self.kept_SK is None:
            raise ValueError("the call goes on with a cache whose prompt did not pass through this adapter")
        if len(self.kept_SK) != num_rows:
            raise ValueError(f"{len(self.kept_SK)} prompts were weighed, the call goes on with {num_rows} rows")
        return self.kept_SK

    def weights(self) -> Tensor:
        """The weights [S, K] that what runs now is to follow.

        Raises:
            ValueError: the gate has not decided for this call.
        """
        decided = self.segments.call.decided.get(self) if self.segments.is_recomputing else None
        found = next((one for one in (self.held_SK, decided, self.weights_SK) if one is not None), None)
        if found is None:
            raise ValueError("the gate decides before its banks: call the whole model")
        return found

    def _weigh(self, logits_SK: Tensor) -> Tensor:
        """softmax; over those that are not masked, where some are (0 for all where all are)."""
        if self.kept is None:
            return logits_SK.softmax(-1)
        is_masked_K = torch.tensor([name not in self.kept for name in self.widths], device=logits_SK.device)
        return logits_SK.masked_fill(is_masked_K, -torch.inf).softmax(-1).nan_to_num(0.0)

    def hold(self, index: int | None) -> None:
        """Give all weight to one expert for a while, or to none."""
        row_K = self.log_temperature.new_zeros(len(self.widths))
        if index is not None:
            row_K[index] = 1
        self.held_SK = row_K.expand(self.segments.num_segments, -1)

    def _of_all(self, weights_SK: Tensor) -> Tensor:
        """Weights of all N, zero where an expert has no part in this gate's unit."""
        if len(self.widths) == len(self.experts):
            return weights_SK
        columns = dict(zip(self.widths, weights_SK.unbind(-1), strict=True))
        nothing_S = weights_SK.new_zeros(len(weights_SK))
        return torch.stack([columns.get(expert, nothing_S) for expert in self.experts], -1)

    def routings(self) -> Mapping[str, ExampleRouting]:
        """The weights of the last call; an expert that has no part here has weight 0."""
        return {} if self.routing is None else {"": self.routing}

    def extra_repr(self) -> str:
        """Show sizes in ``print(model)``."""
        return f"experts={list(self.widths)}, input={sum(self.widths.values())}"

    def __getstate__(self) -> dict[str, Any]:
        # What was decided hangs on an autograd graph, which neither deepcopy nor pickle can take along.
        return self.__dict__ | {"weights_SK": None, "held_SK": None, "kept_SK": None, "routing": None}


class FollowGate:
    """M(x) = diag(G (x) 1_{r_i}) of a bank whose experts are weighed by a gate of its own or of the unit around it."""

    def __init__(self, leader: ExpertGate) -> None:
        self.leader = leader

    def __call__(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """Each example's weight of every column of the bank, and the example of every token."""
        assert isinstance(bank, ExpertBank)
        weights_SK, places_BT = self.leader.weights(), self.leader.segments.places_of_tokens()
        kinds = {(expert.r, expert.scale / bank.scale) for expert in bank.experts}
        if [expert.name for expert in bank.experts] == list(self.leader.widths) and len(kinds) == 1:
            ((r, factor),) = kinds
            weights_SK = weights_SK if factor == 1 else weights_SK * factor
            return weights_SK.unsqueeze(-1).expand(-1, -1, r).flatten(1), places_BT
        columns = dict(zip(self.leader.widths, weights_SK.split(1, -1), strict=True))
        # Not an index tensor: making one on a device would wait for it.
        spans = [(columns[expert.name] * (expert.scale / bank.scale)).expand(-1, expert.r) for expert in bank.experts]
        return torch.cat(spans, -1), places_BT

    def mix(self, z_BTR: Tensor, *decision: Tensor) -> Tensor:
        """Multiply each token's reading by its example's weights."""
        weights_SR, places_BT = decision
        return z_BTR * weights_SR.index_select(0, places_BT.flatten()).view(z_BTR.shape).to(z_BTR.dtype)


class OwnGate(FollowGate):
    """The gate of a bank that weighs its own experts by what they would write."""

    def __call__(self, x_BTD: Tensor, z_BTR: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """Decide, then as :class:`FollowGate`. Means are taken of z: B is linear, and z is narrower than y."""
        assert isinstance(bank, ExpertBank)
        with torch.autocast(x_BTD.device.type, enabled=False):
            self.leader.decide(lambda: bank.deltas(self.leader.segments.pool(z_BTR)))
        return super().__call__(x_BTD, z_BTR, bank)

    def routings(self) -> Mapping[str, ExampleRouting]:
        """What the gate decided in the last call."""
        return self.leader.routings()


class GatePreHook:
    """Forward pre-hook of the block whose linears read a unit's input: the unit's gate decides before any of them runs.

    Args:
        readers: those linears; each tells what its experts would write.
    """

    def __init__(self, gate: ExpertGate, readers: Sequence[ExpertBank]) -> None:
        self.gate, self.readers = gate, tuple(readers)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x_BTD: Tensor = args[0] if args else next(iter(kwargs.values()))
        self.gate.decide(lambda: self._deltas(self.gate.segments.pool(x_BTD)))

    def _deltas(self, x_SD: Tensor) -> Tensor:
        found: dict[str, list[Tensor]] = {expert: [] for expert in self.gate.widths}
        for reader in self.readers:
            parts = reader(x_SD, is_judged=True).chunk(len(reader.experts), -1)
            for expert, part_SO in zip(reader.experts, parts, strict=True):
                found[expert.name].append(part_SO)
        return torch.cat([part_SO for parts in found.values() for part_SO in parts], -1)
