"""Which experts served the tokens of one optimizer step: counts of its rows, added up over rows and ranks.

Shape suffixes: L routed layers, D domains, K experts of the widest layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class ExpertTotals(Protocol):
    """Routing of one row by layer and domain, as sums over tokens, so that rows and ranks add up."""

    @property
    def tokens(self) -> torch.Tensor:
        """float64 ``[L, D, K]``, how many tokens of a domain an expert served; 0 beyond a layer's own experts."""
        ...

    @property
    def entropy(self) -> torch.Tensor:
        """float64 ``[L, D]``, the entropy of the router's softmax in nats, summed over tokens."""
        ...

    @property
    def layer_names(self) -> Sequence[str]:
        """Names of the L layers."""
        ...

    @property
    def num_experts(self) -> Sequence[int]:
        """How many of the K columns are each layer's own."""
        ...


class ExpertSums:
    """Running sums of :class:`ExpertTotals` over one rank's rows of a step.

    Attributes:
        tokens, entropy: float64 ``[L, D, K]`` and ``[L, D]``; None before the first row.
        layer_names, num_experts: of the last row that was added; all rows of a run have the same.
    """

    def __init__(self) -> None:
        self.tokens: torch.Tensor | None = None
        self.entropy: torch.Tensor | None = None
        self.layer_names: tuple[str, ...] = ()
        self.num_experts: tuple[int, ...] = ()

    def add(self, totals: ExpertTotals) -> None:
        """Add the counts of a row."""
        self.layer_names, self.num_experts = tuple(totals.layer_names), tuple(totals.num_experts)
        self.tokens = totals.tokens.double() if self.tokens is None else self.tokens + totals.tokens
        self.entropy = totals.entropy.double() if self.entropy is None else self.entropy + totals.entropy

    def flat(self, device: torch.device) -> torch.Tensor:
        """All sums as one float64 ``[L * D * K + L * D]``, to be added up over ranks; ``[0]`` without routed layers."""
        if self.tokens is None or self.entropy is None or not self.layer_names:
            return torch.zeros(0, dtype=torch.float64, device=device)
        return torch.cat([self.tokens.flatten(), self.entropy.flatten()]).to(device)

    def from_flat(self, flat: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Tokens ``[L, D, K]`` and entropy ``[L, D]`` on the CPU, from a sum of :meth:`flat`; None without layers."""
        if self.tokens is None or self.entropy is None or not self.layer_names:
            return None, None
        tokens, entropy = flat.split([self.tokens.numel(), self.entropy.numel()])
        return tokens.view_as(self.tokens).cpu(), entropy.view_as(self.entropy).cpu()
