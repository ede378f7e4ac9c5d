"""MoLE's balance loss, L = -sum_i log q_i, and what it needs of a whole optimizer step.

Shape suffixes: S examples, N experts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llava_moe.adapters.core.router import ExampleRouting
from llava_moe.adapters.core.segments import Segments


class MeanWeightBalance:
    """L = -log prod_i q_i, q_i the mean weight of expert i over all gates and examples (arXiv 2404.13628, eq. 14-15).

    It is N log N where the mean is even. It does not ask a single gate, or example, to be even. Experts that are masked
    have no share to be even with: they are left out, and so are gates that weigh none but them.

    The logarithm is taken of a mean over the whole step, so L is no sum over its forward passes. With q of the step
    given, each pass contributes its examples' share of L, with the gradient of -sum_i q'_i / sg(q_i), q'_i what the
    pass adds to q_i: summed, these are L and its gradient.
    """

    def __init__(self) -> None:
        self.is_masked_N: tuple[bool, ...] | None = None

    def totals(self, routings: Mapping[str, ExampleRouting], segments: Segments, is_real: Tensor | None) -> Tensor:
        """float64 [N + 1]: each expert's weight, mean over gates, summed over the real examples; and their number."""
        weights_SN, real_S = self._mean_weights(routings, is_real)
        sums_N = (weights_SN * real_S.unsqueeze(-1)).sum(0).detach().double()
        return torch.cat([sums_N, real_S.sum().double().view(1)])

    def __call__(
        self,
        routings: Mapping[str, ExampleRouting],
        segments: Segments,
        is_real: Tensor | None,
        reduction: str,
        totals: Tensor | None = None,
    ) -> Tensor:
        """The last forward pass's part, as a mean over its real examples (0 when there is none) or their sum.

        Raises:
            ValueError: unknown ``reduction``, or ``is_real`` does not fit the examples seen.
        """
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction={reduction!r} must be mean or sum")
        weights_SN, real_S = self._mean_weights(routings, is_real)
        if totals is None:
            totals = self.totals(routings, segments, is_real)
        num_examples = totals[-1].clamp(min=1)
        floor = torch.finfo(weights_SN.dtype).tiny
        q_N = (totals[:-1] / num_examples).to(weights_SN.dtype).clamp(min=floor)
        value = -q_N.log().sum()
        # The value is 0: it carries the gradient, num_examples * d(-sum_i q'_i / q_i).
        slope = -((weights_SN * real_S.unsqueeze(-1)).sum(0) / q_N).sum()
        num_real = real_S.sum()
        total = value * num_real + (slope - slope.detach())
        return total if reduction == "sum" else total / num_real.clamp(min=1)

    def _mean_weights(self, routings: Mapping[str, ExampleRouting], is_real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights [S, N] of experts that are not masked, mean over gates; and which examples are real, as numbers."""
        weights_GSN = torch.stack([routing.probs_SK for routing in routings.values()])
        if self.is_masked_N is not None:
            kept = [column for column, is_masked in enumerate(self.is_masked_N) if not is_masked]
            weights_GSN = weights_GSN[..., kept]
            # A gate of masked experts alone weighs nothing, of any example.
            weighs_G = weights_GSN.sum((1, 2)) > 0
            weights_GSN = weights_GSN * weighs_G.view(-1, 1, 1) * (len(weighs_G) / weighs_G.sum().clamp(min=1))
        weights_SN = weights_GSN.mean(0)
        if is_real is None:
            return weights_SN, weights_SN.new_ones(len(weights_SN))
        if len(is_real) != len(weights_SN):
            raise ValueError(f"is_real has {len(is_real)} entries, the last forward pass {len(weights_SN)} examples")
        return weights_SN, is_real.to(weights_SN)
