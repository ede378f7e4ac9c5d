"""The gate of Conditional MixLoRA: chooses r of E factors of A and r of B, and feeds the i-th of one to that of other.

Shape suffixes: B rows, T tokens, D in, E factors, R = r of them chosen, S examples, U deciding units (examples, or
tokens where each decides for itself), H what a router reads (D, or the width of word embeddings).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Which factors serve each unit.

    Attributes:
        probs_A_UE, probs_B_UE: what was chosen from, with gradient; B's sums to 2 where it is conditional.
        reads_UR, writes_UR: int64, the chosen factors of A and of B, best first.
    """

    probs_A_UE: Tensor
    probs_B_UE: Tensor
    reads_UR: Tensor
    writes_UR: Tensor

    def weights(self) -> Tensor:
        """w_i = (1 + (p_A - sg(p_A))) (1 + (p_B - sg(p_B))) of pair i, [U, R]: exactly 1, with a gradient."""
        top_A_UR = self.probs_A_UE.gather(-1, self.reads_UR)
        top_B_UR = self.probs_B_UE.gather(-1, self.writes_UR)
        return (1 + (top_A_UR - top_A_UR.detach())) * (1 + (top_B_UR - top_B_UR.detach()))

    def detached(self) -> FactorChoice:
        """The same without its graph."""
        return FactorChoice(self.probs_A_UE.detach(), self.probs_B_UE.detach(), self.reads_UR, self.writes_UR)

    def routings(self, units_BT: Tensor) -> dict[str, ExampleRouting]:
        """As what is counted and shown; ``units_BT`` the unit of each token, -1 for none."""
        total_U1 = self.probs_B_UE.sum(-1, keepdim=True)
        return {
            "A": ExampleRouting(self.probs_A_UE.float(), self.reads_UR, units_BT),
            "B": ExampleRouting((self.probs_B_UE / total_U1).float(), self.writes_UR, units_BT),
        }


def strongest(scores_UE: Tensor, r: int) -> Tensor:
    """Indices [U, R] of the r highest of each row, highest first, ties to the lower index."""
    return scores_UE.sort(dim=-1, descending=True, stable=True).indices[:, :r]


def conditional_probs(lora_A_ED: Tensor, cfs_RED: Tensor, reads_UR: Tensor) -> Tensor:
    """p_CFS = softmax(sum_k softmax(A[k] W_AB[k])) with A[k] the k-th chosen row of A: [U, E] (paper, eq. 7-8).

    Every row of A meets every W_AB[k] once, in a table [E, r, E], however many units there are.
    """
    table_ERE = (lora_A_ED @ cfs_RED.flatten(0, 1).t()).unflatten(-1, cfs_RED.shape[:2])
    positions_R = torch.arange(len(cfs_RED), device=reads_UR.device)
    return table_ERE[reads_UR, positions_R].softmax(-1).sum(1).softmax(-1)


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
        """Return the unit of each token, the factors each unit reads and writes, and their weights where they learn.

        Raises:
            ValueError: the call goes on with a prompt that was not seen here, or with another number of rows.
        """
        units_BT = self._units(x_BTD)
        if self.segments.is_decoding and self.routing in ("instance", "task"):
            choice, self.units_BT = self._keep_on(), units_BT
        else:
            with torch.autocast(x_BTD.device.type, enabled=False):
                choice = self._choose(x_BTD, units_BT, bank)
            self._keep(choice, units_BT)
        decision = (units_BT.clamp(min=0), choice.reads_UR, choice.writes_UR)
        return (*decision, choice.weights()) if self.learns and choice.probs_A_UE.requires_grad else decision

    def mix(self, z_BTE: Tensor, *decision: Tensor) -> Tensor:
        """Gather what the chosen rows of A read, and put the i-th in the place of the i-th chosen column of B."""
        units_BT, reads_UR, writes_UR, *weights = decision
        units_N, shape = units_BT.flatten(), (*z_BTE.shape[:-1], reads_UR.shape[-1])
        read_BTR = z_BTE.gather(-1, reads_UR.index_select(0, units_N).view(shape))
        if weights:
            # Not by brackets: a GPU sorts for their gradient, and is slow where many tokens share a unit.
            read_BTR = read_BTR * weights[0].index_select(0, units_N).view(shape).to(z_BTE.dtype)
        return torch.zeros_like(z_BTE).scatter(-1, writes_UR.index_select(0, units_N).view(shape), read_BTR)

    def routings(self) -> Mapping[str, ExampleRouting]:
        """The last choice of A and of B. Where tokens choose, each counts as an example of its own."""
        return {} if self.kept is None or self.units_BT is None else self.kept.routings(self.units_BT)

    def extra_repr(self) -> str:
        """Show size and mode in ``print(model)``."""
        return f"{self.r} of {self.num_factors}, conditional={self.conditional}, routing={self.routing!r}"

    def _units(self, x_BTD: Tensor) -> Tensor:
        segments_BT, _ = self.segments.of_tokens()
        if self.routing != "token":
            return segments_BT
        own_BT = torch.arange(segments_BT.numel(), device=segments_BT.device).view_as(segments_BT)
        return own_BT.masked_fill(segments_BT < 0, -1)

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

    def _choose(self, x_BTD: Tensor, units_BT: Tensor, bank: WideLinear) -> FactorChoice:
        if self.routing == "random":
            return self._draw(x_BTD.device)
        if self.routing == "token":
            h_UH = x_BTD.reshape(-1, x_BTD.shape[-1])
        else:
            is_own = self.routing == "instance"
            h_UH = self.segments.pool(x_BTD, self) if is_own else self.segments.pool_instruction()
        dtype = torch.promote_types(torch.promote_types(self.ifs_A.dtype, torch.float32), h_UH.dtype)
        logits_UE = read(h_UH, [self.ifs_A.to(dtype), self.ifs_B.to(dtype)])
        probs_A_UE, probs_B_UE = (part.softmax(-1) for part in logits_UE.chunk(2, -1))
        reads_UR = strongest(probs_A_UE, self.r)
        if self.conditional:
            probs_B_UE = probs_B_UE + conditional_probs(bank.lora_A.to(dtype), self.cfs.to(dtype), reads_UR)
        return FactorChoice(probs_A_UE, probs_B_UE, reads_UR, strongest(probs_B_UE, self.r))

    def _draw(self, device: torch.device) -> FactorChoice:
        # From the CPU's generator, which checkpointing puts back before it computes a block again.
        shape = (2, self.segments.num_segments, self.num_factors)
        reads_UR, writes_UR = torch.rand(shape).argsort(-1)[..., : self.r].to(device)
        probs_UE = torch.full(shape[1:], 1 / self.num_factors, device=device)
        return FactorChoice(probs_UE, probs_UE, reads_UR, writes_UR)

    def __getstate__(self) -> dict[str, Any]:
        # The last choice belongs to a conversation, which neither deepcopy nor pickle takes along.
        return self.__dict__ | {"kept": None, "units_BT": None}
