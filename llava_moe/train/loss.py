"""Cross-entropy on the supervised tokens of a packed row, and the sums that make per-domain means exact.

Shape suffixes: T tokens of the row, N supervised tokens, V vocabulary, D domains, S segments of the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llava_moe.data.batch import Batch

IGNORED = -100


@dataclass(frozen=True)
class Targets:
    """Where a row is supervised.

    Attributes:
        positions_N: the tokens whose logits are needed (each predicts its successor).
        labels_N: the token that follows each of them.
        domains_N: the domain of the example it stands in.
    """

    positions_N: torch.Tensor
    labels_N: torch.Tensor
    domains_N: torch.Tensor


def targets_of(batch: Batch) -> Targets:
    """Find the supervised positions of a packed row; an example's first token is never supervised (``<s>``)."""
    labels_T = batch.labels[0]
    positions_N = (labels_T[1:] != IGNORED).nonzero()[:, 0]
    return Targets(positions_N, labels_T[positions_N + 1], batch.domains[0, positions_N + 1])


def cross_entropy_N(logits_NV: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross-entropy in nats of each supervised token, in fp32."""
    return F.cross_entropy(logits_NV.float(), targets.labels_N, reduction="none")


@dataclass
class StepSums:
    """Running sums of one optimizer step on one rank; summing them over ranks gives the global step exactly.

    Attributes:
        loss_D, supervised_D: summed cross-entropy (nats) and supervised tokens by domain.
        samples_D: real examples by domain.
        scalars: balance loss summed over examples, examples, tokens, tokens of null segments, rows.
    """

    loss_D: torch.Tensor
    supervised_D: torch.Tensor
    samples_D: torch.Tensor
    scalars: torch.Tensor

    @staticmethod
    def zeros(num_domains: int, device: torch.device) -> StepSums:
        """Sums of nothing, float64."""

        def empty(size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        return StepSums(empty(num_domains), empty(num_domains), empty(num_domains), empty(len(SCALARS)))

    def add_losses(self, losses_N: torch.Tensor, domains_N: torch.Tensor) -> None:
        """Add the cross-entropy of N supervised tokens in nats, each to its domain (int64, 0 to D - 1)."""
        self.loss_D.index_add_(0, domains_N, losses_N.detach().double())
        self.supervised_D.index_add_(0, domains_N, torch.ones_like(losses_N, dtype=torch.float64))

    def add_row(self, batch: Batch, balance_sum: torch.Tensor | float) -> None:
        """Count a row's examples and tokens, and add its balance loss, summed over its real examples."""
        firsts_S = torch.tensor([0, *batch.segment_lengths[:-1]], device=self.loss_D.device).cumsum(0)
        domains_S = batch.domains[0, firsts_S][batch.is_real]
        self.samples_D.index_add_(0, domains_S, torch.ones_like(domains_S, dtype=torch.float64))
        lengths_S = torch.tensor(batch.segment_lengths, device=self.loss_D.device)
        null = torch.tensor([position < 0 for position in batch.sample_positions], device=self.loss_D.device)
        self.scalars += torch.stack(
            [
                torch.as_tensor(balance_sum, dtype=torch.float64, device=self.loss_D.device).detach(),
                batch.is_real.sum().double(),
                lengths_S[~null].sum().double(),
                lengths_S[null].sum().double(),
                torch.ones((), dtype=torch.float64, device=self.loss_D.device),
            ]
        )

    def flat(self) -> torch.Tensor:
        """All sums as one float64 ``[3 D + 5]``, to be added up over ranks."""
        return torch.cat([self.loss_D, self.supervised_D, self.samples_D, self.scalars])

    @staticmethod
    def from_flat(flat: torch.Tensor) -> StepSums:
        """The sums that a sum of :meth:`flat` holds."""
        num_domains = (flat.numel() - len(SCALARS)) // 3
        loss_D, supervised_D, samples_D, scalars = flat.split([num_domains] * 3 + [len(SCALARS)])
        return StepSums(loss_D, supervised_D, samples_D, scalars)

    def scalar(self, name: str) -> float:
        """One of ``SCALARS``.

        Raises:
            ValueError: it is none of them.
        """
        return float(self.scalars[SCALARS.index(name)])

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all supervised tokens, ``sum(loss_D) / sum(supervised_D)`` in nats; 0 without any."""
        return float(self.loss_D.sum()) / max(1.0, float(self.supervised_D.sum()))


SCALARS = ("balance", "examples", "tokens", "null_tokens", "rows")
