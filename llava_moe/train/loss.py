"""Cross-entropy on the supervised tokens of a packed row, and the sums that make per-domain means exact.

Shape suffixes: T tokens of the row, N supervised tokens, V vocabulary, D domains, S segments of the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llava_moe.data.batch import Batch
from llava_moe.to_device import to_device

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
    labels_T, domains_T = batch.on_host.labels[0], batch.on_host.domains[0]
    positions_N = (labels_T[1:] != IGNORED).nonzero()[:, 0]
    # Looked for on the host and copied in one piece: a device would be waited for, to know how many there are.
    found_3N = torch.stack([positions_N, labels_T[positions_N + 1], domains_T[positions_N + 1]])
    return Targets(*to_device(found_3N, batch.labels.device))


def cross_entropy_N(logits_NV: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross-entropy in nats of each supervised token, in fp32."""
    return F.cross_entropy(logits_NV.float(), targets.labels_N, reduction="none")


@dataclass
class StepSums:
    """Sums of one optimizer step on the host; of one rank or of all, they add up exactly.

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
    def zeros(num_domains: int) -> StepSums:
        """Sums of nothing, float64."""
        empty_D = torch.zeros(num_domains, dtype=torch.float64)
        return StepSums(empty_D, empty_D.clone(), empty_D.clone(), torch.zeros(len(SCALARS), dtype=torch.float64))

    def flat(self) -> torch.Tensor:
        """All sums as one float64 ``[3 D + 5]``, to be added up over ranks."""
        return torch.cat([self.loss_D, self.supervised_D, self.samples_D, self.scalars])

    @staticmethod
    def from_flat(flat: torch.Tensor) -> StepSums:
        """The sums that a sum of :meth:`flat` holds."""
        num_domains = (flat.numel() - len(SCALARS)) // 3
        return StepSums(*flat.split([num_domains] * 3 + [len(SCALARS)]))

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


class RunningSums:
    """The rows of one rank as they are added up: losses where the model tells them, counts on the host.

    Nothing here waits for the device.
    """

    def __init__(self, num_domains: int, device: torch.device) -> None:
        self._counts = StepSums.zeros(num_domains)
        # By domain, and behind them the balance loss.
        self._losses = torch.zeros(num_domains + 1, dtype=torch.float64, device=device)

    def add_losses(self, losses_N: torch.Tensor, domains_N: torch.Tensor) -> None:
        """Add the cross-entropy of N supervised tokens in nats, each to its domain (int64, 0 to D - 1)."""
        self._losses.index_add_(0, domains_N, losses_N.detach().double())

    def add_row(self, batch: Batch, balance_sum: torch.Tensor | float) -> None:
        """Count a row's examples and tokens, and add its balance loss, summed over its real examples."""
        row, counts = batch.on_host, self._counts
        num_domains, lengths = len(counts.samples_D), row.segment_lengths
        firsts_S = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        counts.samples_D += torch.bincount(row.domains[0, firsts_S][row.is_real], minlength=num_domains)
        is_supervised_T = row.labels[0, 1:] != IGNORED
        counts.supervised_D += torch.bincount(row.domains[0, 1:][is_supervised_T], minlength=num_domains)
        null = [length for length, place in zip(lengths, row.sample_positions, strict=True) if place < 0]
        seen = {"examples": row.num_samples, "tokens": sum(lengths) - sum(null), "null_tokens": sum(null), "rows": 1}
        counts.scalars += torch.tensor([seen.get(name, 0) for name in SCALARS], dtype=torch.float64)
        if isinstance(balance_sum, torch.Tensor):
            self._losses[-1] += balance_sum.detach()

    def flat(self) -> torch.Tensor:
        """:meth:`StepSums.flat` of the rows so far, on the device."""
        counts, num_domains = self._counts, len(self._counts.samples_D)
        told = to_device(torch.cat([counts.supervised_D, counts.samples_D, counts.scalars[1:]]), self._losses.device)
        loss_D, balance = self._losses.split([num_domains, 1])
        return torch.cat([loss_D, told[: 2 * num_domains], balance, told[2 * num_domains :]])


SCALARS = ("balance", "examples", "tokens", "null_tokens", "rows")
