"""The gate of Conditional MixLoRA: chooses r of E factors of A and r of B, and feeds the i-th of one to that of other.

Shape suffixes: B rows, T tokens, D in, E factors, R = r of them chosen, S examples, U deciding units (examples, or
tokens where each decides for itself), H what a router reads (D, or the width of word embeddings), G gates that decide
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.adapters.core.memory_efficient import read
from llava_moe.adapters.core.router import ExampleRouting, KeepsDtype, router_dtype
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.wide_linear import WideLinear

ROUTINGS = ("instance", "task", "token", "random")
ROUTER_GRADS = ("straight_through", "none")


@dataclass(frozen=True)
class FactorChoice:
    """Which factors serve each unit, by one gate or by several that decide together (then G stands behind U).

    Attributes:
        probs_A_UE, probs_B_UE: what was chosen from, with gradient; B's sums to 2 where it is conditional.
        reads_UR, writes_UR: int64, the chosen factors of A and of B, best first.
        sources_UE, weights_UE: the same for each factor of B: which factor of A feeds it, and with what weight; any
            factor, with weight 0, where none does.
    """

    probs_A_UE: Tensor
    probs_B_UE: Tensor
    reads_UR: Tensor
    writes_UR: Tensor
    sources_UE: Tensor
    weights_UE: Tensor

    @classmethod
    def of(
        cls, probs_A_UE: Tensor, probs_B_UE: Tensor, reads_UR: Tensor, writes_UR: Tensor, learns: bool = False
    ) -> FactorChoice:
        """With weight 1 for each pair.

        Args:
            learns: let it be w_i = (1 + (p_A - sg(p_A))) (1 + (p_B - sg(p_B))): exactly 1, with a gradient.
        """
        if learns and probs_A_UE.requires_grad:
            top_A_UR, top_B_UR = probs_A_UE.gather(-1, reads_UR), probs_B_UE.gather(-1, writes_UR)
            weights_UR = (1 + (top_A_UR - top_A_UR.detach())) * (1 + (top_B_UR - top_B_UR.detach()))
        else:
            weights_UR = torch.ones_like(writes_UR, dtype=probs_B_UE.dtype)
        weights_UE = torch.zeros_like(probs_B_UE).scatter(-1, writes_UR, weights_UR)
        sources_UE = torch.zeros_like(probs_B_UE, dtype=torch.int64).scatter(-1, writes_UR, reads_UR)
        return cls(probs_A_UE, probs_B_UE, reads_UR, writes_UR, sources_UE, weights_UE)

    def by_gate(self) -> list[FactorChoice]:
        """Of several gates, that of each."""
        parts = zip(*(getattr(self, one.name).unbind(1) for one in fields(self)), strict=True)
        return [FactorChoice(*part) for part in parts]

    def detached(self) -> FactorChoice:
        """The same without its graph."""
        return FactorChoice(*(getattr(self, one.name).detach() for one in fields(self)))

    def routings(self, units_BT: Tensor) -> dict[str, ExampleRouting]:
        """As what is counted and shown; ``units_BT`` the unit of each token, -1 for none."""
        total_U1 = self.probs_B_UE.sum(-1, keepdim=True)
        return {
            "A": ExampleRouting(self.probs_A_UE.float(), self.reads_UR, units_BT),
            "B": ExampleRouting((self.probs_B_UE / total_U1).float(), self.writes_UR, units_BT),
        }


def strongest(scores_UE: Tensor, r: int) -> Tensor:
    """Indices [U, R] of the r highest of each row, highest first, ties to the lower index."""
    return scores_UE.sort(dim=-1, descending=True, stable=True).indices[..., :r]


def conditional_probs(lora_A_ED: Tensor, cfs_RED: Tensor, reads_UR: Tensor) -> Tensor:
    """p_CFS = softmax(sum_k softmax(A[k] W_AB[k])) with A[k] the k-th chosen row of A: [U, E] (paper, eq. 7-8)."""
    return _probs_of_tables([_conditional_table(lora_A_ED, cfs_RED)], reads_UR.unsqueeze(1)).squeeze(1)


def _conditional_table(lora_A_ED: Tensor, cfs_RED: Tensor) -> Tensor:
    """Every row of A meets every W_AB[k] once, [E, R, E], however many units there are."""
    return (lora_A_ED @ cfs_RED.flatten(0, 1).t()).unflatten(-1, cfs_RED.shape[:2])


def _probs_of_tables(tables: Sequence[Tensor], reads_UGR: Tensor) -> Tensor:
    """p_CFS [U, G, E] of gates that decide together, from the table of each."""
    positions_R = torch.arange(reads_UGR.shape[-1], device=reads_UGR.device)
    if len(tables) == 1:
        chosen_UGRE = tables[0][reads_UGR, positions_R]
    else:
        gates_G1 = torch.arange(len(tables), device=reads_UGR.device).unsqueeze(1)
        chosen_UGRE = torch.stack(list(tables))[gates_G1, reads_UGR, positions_R]
    return chosen_UGRE.softmax(-1).sum(-2).softmax(-1)


class FactorGate(KeepsDtype):
    """M(x) = P_B^T diag(w) P_A: the i-th chosen factor of A feeds the i-th chosen factor of B (arXiv 2402.15896).

    With h the mean over an example's prompt of what the linear reads: p_A = softmax(W_A h); p_B = softmax(W_B h), plus
    p_CFS where the choice of B is conditional. The r highest of each are chosen. The choice is kept from a prompt's
    forward pass through its decoding.

    ``ifs_A`` and ``ifs_B`` [E, H] are W_A and W_B, ``cfs`` [r, E, D] is W_AB, with W_AB[k] as a linear's weight. They
    start as the released ``nn.Linear`` do, W_AB as one that reads r rows of A end to end; they are fp32 and stay so
    when the model is cast. Probabilities are computed in fp32 at least.

    The paper's Table 2 compares what a choice may be made from:

    - ``instance``: h as above, for each linear its own.
    - ``task``: h is the mean word embedding of the prompt's text without images, one for all linears. The released code
      embeds a definition that its data has beside the instruction with a frozen LLaMA (``cond_type=task_embed``);
      instruction data has no such field, and no second language model is loaded here.
    - ``token``: each token chooses from its own input.
    - ``random``: drawn again at every call, evenly, without routers (``cond_type=random``).

    Args:
        segments: tells examples and prompts apart.
        in_features: D.
        text_features: the width of word embeddings.
        learns: whether the task's gradient reaches the routers; if not, they stay where they started.
    """

    ifs_A: nn.Parameter
    ifs_B: nn.Parameter
    cfs: nn.Parameter

    def __init__(
        self,
        segments: Segments,
        num_factors: int,
        r: int,
        in_features: int,
        text_features: int,
        conditional: bool = True,
        routing: str = "instance",
        learns: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.segments, self.num_factors, self.r = segments, num_factors, r
        self.conditional, self.routing, self.learns = conditional and routing != "random", routing, learns
        self.kept: FactorChoice | None = None
        self.units_BT: Tensor | None = None
        if routing == "task":
            segments.reads_text = True
        if routing == "random":
            return
        read_features = text_features if routing == "task" else in_features
        for name in ("ifs_A", "ifs_B"):
            linear = nn.Linear(read_features, num_factors, bias=False, dtype=router_dtype(dtype), device=device)
            setattr(self, name, linear.weight.requires_grad_(learns))
        if self.conditional:
            released = nn.Linear(r * in_features, num_factors, bias=False, dtype=router_dtype(dtype), device=device)
            cfs_RED = released.weight.detach().unflatten(1, (r, in_features)).transpose(0, 1).contiguous()
            self.cfs = nn.Parameter(cfs_RED, requires_grad=learns)

    def forward(self, x_BTD: Tensor, z_BTE: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """Return the unit of each token, and for each unit and factor of B which factor of A feeds it, and its weight.

        Raises:
            ValueError: the call goes on with a prompt that was not seen here, or with another number of rows.
        """
        units_BT, rows_BT = self._units()
        if self.segments.is_decoding and self.routing in ("instance", "task"):
            choice, self.units_BT = self._keep_on(), units_BT
        else:
            with torch.autocast(x_BTD.device.type, enabled=False):
                choice = self._choose(x_BTD, bank)
            self._keep(choice, units_BT)
        return rows_BT, choice.sources_UE, choice.weights_UE

    def mix(self, z_BTE: Tensor, *decision: Tensor) -> Tensor:
        """Put what each factor of A read in the place of the factor of B that it feeds."""
        rows_BT, sources_UE, weights_UE = decision
        rows_N = rows_BT.flatten()
        moved_BTE = z_BTE.gather(-1, sources_UE.index_select(0, rows_N).view(z_BTE.shape))
        # Not by brackets: a GPU sorts for their gradient, and is slow where many tokens share a unit.
        return moved_BTE * weights_UE.index_select(0, rows_N).view(z_BTE.shape).to(z_BTE.dtype)

    def routings(self) -> Mapping[str, ExampleRouting]:
        """The last choice of A and of B. Where tokens choose, each counts as an example of its own."""
        return {} if self.kept is None or self.units_BT is None else self.kept.routings(self.units_BT)

    def extra_repr(self) -> str:
        """Show size and mode in ``print(model)``."""
        return f"{self.r} of {self.num_factors}, conditional={self.conditional}, routing={self.routing!r}"

    def _units(self) -> tuple[Tensor, Tensor]:
        """The unit of each token, -1 for none; and one that it may be looked up by."""
        segments_BT, _ = self.segments.of_tokens()
        if self.routing != "token":
            return segments_BT, self.segments.places_of_tokens()
        own_BT = torch.arange(segments_BT.numel(), device=segments_BT.device).view_as(segments_BT)
        return own_BT.masked_fill(segments_BT < 0, -1), own_BT

    def _keep(self, choice: FactorChoice, units_BT: Tensor) -> None:
        """Remember a choice, unless it is made again for a call that is over."""
        if not self.segments.is_recomputing:
            self.kept, self.units_BT = choice.detached(), units_BT

    def _keep_on(self) -> FactorChoice:
        if self.kept is None:
            raise ValueError("the call goes on with a cache whose prompt did not pass through this adapter")
        rows = self.segments.num_segments
        if len(self.kept.reads_UR) != rows:
            raise ValueError(f"{len(self.kept.reads_UR)} prompts were routed, the call goes on with {rows} rows")
        return self.kept

    def _choose(self, x_BTD: Tensor, bank: WideLinear) -> FactorChoice:
        if self.routing == "random":
            return self._draw(x_BTD.device)
        if self.routing == "token":
            return self._choose_from(x_BTD.reshape(-1, x_BTD.shape[-1]), {bank: self})[bank]
        choice: FactorChoice = bank.siblings.decide(bank, x_BTD, partial(self._choose_together, x_BTD))
        return choice

    def _choose_together(self, x_BTD: Tensor, banks: Sequence[WideLinear]) -> dict[WideLinear, FactorChoice]:
        # The first bank asks by this gate, whatever stands around it to watch.
        gates = {banks[0]: self}
        for bank in banks[1:]:
            if isinstance(bank.gate, FactorGate) and bank.gate._kind() == self._kind():
                gates[bank] = bank.gate
        is_own = self.routing == "instance"
        h_UH = self.segments.pool(x_BTD, self) if is_own else self.segments.pool_instruction()
        return self._choose_from(h_UH, gates)

    def _kind(self) -> tuple[object, ...]:
        """Gates that are equal in it can decide together."""
        sizes = (self.num_factors, self.r, self.conditional, self.routing, self.learns)
        return (type(self), id(self.segments), *sizes, *(parameter.dtype for parameter in self.parameters()))

    def _choose_from(self, h_UH: Tensor, gates: Mapping[WideLinear, FactorGate]) -> dict[WideLinear, FactorChoice]:
        """The choice of each bank's gate from what they all read: one product, one softmax and one sort for all."""
        dtype = torch.promote_types(torch.promote_types(self.ifs_A.dtype, torch.float32), h_UH.dtype)
        logits_UX = read(h_UH, [ifs.to(dtype) for gate in gates.values() for ifs in (gate.ifs_A, gate.ifs_B)])
        probs_UG2E = logits_UX.unflatten(-1, (len(gates), 2, self.num_factors)).softmax(-1)
        probs_A_UGE, probs_B_UGE = probs_UG2E.unbind(2)
        reads_UGR = strongest(probs_A_UGE, self.r)
        if self.conditional:
            tables = [_conditional_table(bank.lora_A.to(dtype), gate.cfs.to(dtype)) for bank, gate in gates.items()]
            probs_B_UGE = probs_B_UGE + _probs_of_tables(tables, reads_UGR)
        writes_UGR = strongest(probs_B_UGE, self.r)
        choices = FactorChoice.of(probs_A_UGE, probs_B_UGE, reads_UGR, writes_UGR, self.learns).by_gate()
        return dict(zip(gates, choices, strict=True))

    def _draw(self, device: torch.device) -> FactorChoice:
        # From the CPU's generator, which checkpointing puts back before it computes a block again.
        shape = (2, self.segments.num_segments, self.num_factors)
        reads_UR, writes_UR = torch.rand(shape).argsort(-1)[..., : self.r].to(device)
        probs_UE = torch.full(shape[1:], 1 / self.num_factors, device=device)
        return FactorChoice.of(probs_UE, probs_UE, reads_UR, writes_UR)

    def __getstate__(self) -> dict[str, Any]:
        # The last choice belongs to a conversation, which neither deepcopy nor pickle takes along.
        return self.__dict__ | {"kept": None, "units_BT": None}
