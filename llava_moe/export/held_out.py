"""What a constant mixture costs on held-out data, and the mean mixture of each domain.

Shape suffixes: B rows, T tokens, V vocabulary, R bank width (reading), W (writing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_moe.assemble import Assembled
from llava_moe.data.batch import Batch
from llava_moe.data.encode import IGNORED
from llava_moe.export.constant_gates import Mixings, held, recorded


@dataclass(frozen=True)
class StaticCost:
    """Mean cross-entropy in nats over a domain's supervised tokens, with the mixture as trained and held constant."""

    domain: str
    routed: float
    static: float
    supervised_tokens: int


@torch.no_grad()
def domain_loss(assembled: Assembled, batches: Sequence[Batch]) -> float:
    """Mean cross-entropy in nats over the supervised tokens of packed rows."""
    total, num_tokens = 0.0, 0
    for batch in batches:
        batch = batch.to(next(assembled.model.parameters()).device)
        labels_T = batch.labels[0, 1:]
        logits_TV = _forward(assembled, batch)[0, :-1].float()
        total += float(F.cross_entropy(logits_TV, labels_T, ignore_index=IGNORED, reduction="sum").double())
        num_tokens += int((labels_T != IGNORED).sum())
    return total / max(1, num_tokens)


@torch.no_grad()
def mean_mixings(assembled: Assembled, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """M [W, R] of every gated linear, the mean of M(x) over the tokens of packed rows that belong to an example."""
    with recorded(assembled.model) as recorders:
        for batch in batches:
            batch = batch.to(next(assembled.model.parameters()).device)
            for recorder in recorders.values():
                recorder.is_counted_BT = batch.domains >= 0
            _forward(assembled, batch)
        means = {}
        for name, recorder in recorders.items():
            assert recorder.sum_WR is not None and recorder.num_tokens, "at least one example is needed"
            means[name] = (recorder.sum_WR / recorder.num_tokens).cpu()
    return means


def static_costs(
    assembled: Assembled, batches: Mapping[str, Sequence[Batch]], mixings: Mixings
) -> tuple[StaticCost, ...]:
    """The loss of each domain's rows with the mixture as trained and with it held constant."""
    costs = []
    for domain, rows in batches.items():
        routed = domain_loss(assembled, rows)
        with held(assembled.model, mixings):
            static = domain_loss(assembled, rows)
        costs.append(StaticCost(domain, routed, static, sum(row.supervised_tokens for row in rows)))
    return tuple(costs)


def _forward(assembled: Assembled, batch: Batch) -> Tensor:
    # What decides by example reads the prompt alone, as it would for an answer that is yet to come.
    assembled.attached.mark_prompts(batch.labels)
    logits_BTV: Tensor = assembled.model(**assembled.inputs_of(batch)).logits
    return logits_BTV
