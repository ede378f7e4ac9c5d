"""Cross-entropy of each example of a packed row: the loss that instruments speak of.

Shape suffixes: T tokens of the row, N supervised tokens, V vocabulary, S examples of the row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_moe.assemble import Assembled
from llava_moe.data.batch import Batch
from llava_moe.train.loss import cross_entropy_N, targets_of


def example_losses_S(assembled: Assembled, batch: Batch) -> Tensor:
    """float32 [S], the mean cross-entropy in nats over the supervised tokens of each example; differentiable.

    A load-balance loss is no part of it: that asks experts to be used alike, and says nothing of the answers. What
    decides by example reads the prompt alone, as in training.
    """
    device = next(assembled.model.parameters()).device
    batch = batch.to(device)
    assembled.attached.mark_prompts(batch.labels)
    targets = targets_of(batch)
    # The logits of supervised positions alone: the vocabulary is wide.
    output = assembled.model(**assembled.inputs_of(batch), logits_to_keep=targets.positions_N)
    losses_N = cross_entropy_N(output.logits[0], targets)
    lengths_S = torch.tensor(batch.segment_lengths, device=device)
    example_T = torch.repeat_interleave(torch.arange(len(lengths_S), device=device), lengths_S)
    example_N = example_T[targets.positions_N + 1]
    # One after the other: sums that threads race for would differ from run to run on a device.
    return torch.stack([losses_N[example_N == place].mean() for place in range(len(lengths_S))])
