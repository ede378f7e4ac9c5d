"""Load-balance losses over router decisions, and the counts that are logged about them.

Shape suffixes: L layers, B rows, T tokens, N = B * T, S examples, K experts, M domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_moe.adapters.router import Routing
from llava_moe.adapters.segments import Segments

LOAD_BALANCE_FORMS = ("per_layer", "pooled")


@dataclass(frozen=True)
class ExpertTotals:
    """Sums over tokens, so that ranks and micro-batches add up.

    Attributes:
        tokens: float64 [L, M, K], how many tokens of a domain chose an expert.
        entropy: float64 [L, M], sum over tokens of the entropy of the router's softmax, in nats.
        layer_names: the L routed blocks.
    """

    tokens: Tensor
    entropy: Tensor
    layer_names: tuple[str, ...]


def load_balance_loss(
    routings: Mapping[str, Routing],
    segments: Segments,
    is_real: Tensor | None,
    reduction: str,
    form: str,
) -> Tensor:
    """The unweighted load-balance loss of the last forward pass, fp32 scalar.

    Per example, over its own real tokens, with P_lk = mean of p_k and C_lk = share of tokens that chose k in layer l:

    - ``per_layer``: mean over l of K * sum_k P_lk C_lk, which is 1 when the load is uniform (Switch Transformer,
      arXiv 2101.03961, eq. 4-6).
    - ``pooled``: sum_k mean_l(P_lk) mean_l(C_lk), as released (forwchen/LLaVA-MoLE ``model.py`` 280-287): all layers'
      tokens together, without the factor K, 1/K when uniform. One layer may collapse if others make up for it.

    The gradient flows through p only.

    Args:
        routings: decisions by layer.
        segments: the examples of the pass that made them.
        is_real: bool [S]; examples that are not real (null segments, holes) are left out. ``None``: all are real.
        reduction: ``"mean"`` over the real examples (0 when there is none) or their ``"sum"``.
        form: ``"per_layer"`` or ``"pooled"``.

    Raises:
        ValueError: unknown ``reduction`` or ``form``, or ``is_real`` does not fit the examples seen.
    """
    if reduction not in ("mean", "sum") or form not in LOAD_BALANCE_FORMS:
        raise ValueError(f"reduction={reduction!r} must be mean or sum, form={form!r} one of {LOAD_BALANCE_FORMS}")
    probs_LNK = torch.stack([routing.probs_BTK.flatten(0, 1) for routing in routings.values()])
    chosen_LN = torch.stack([routing.chosen_BT.flatten() for routing in routings.values()])
    segments_BT, num_segments = segments.of_tokens()
    if is_real is None:
        is_real = torch.ones(int(num_segments), dtype=torch.bool, device=probs_LNK.device)
    elif segments_BT.device.type == "cpu" and int(num_segments) != len(is_real):
        raise ValueError(f"is_real has {len(is_real)} entries, the last forward pass {int(num_segments)} examples")
    prob_LSK, share_LSK = _means_by_segment(probs_LNK, chosen_LN, segments_BT.flatten(), len(is_real))
    if form == "per_layer":
        loss_S = (prob_LSK * share_LSK).sum(-1).mean(0) * probs_LNK.shape[-1]
    else:
        loss_S = (prob_LSK.mean(0) * share_LSK.mean(0)).sum(-1)
    real_S = is_real.to(loss_S)
    total = (loss_S * real_S).sum()
    return total if reduction == "sum" else total / real_S.sum().clamp(min=1)


def _means_by_segment(
    probs_LNK: Tensor, chosen_LN: Tensor, segments_N: Tensor, num_segments: int
) -> tuple[Tensor, Tensor]:
    """Mean probability and share of choices of each expert in each segment, both [L, S, K]."""
    bins_N = torch.where(segments_N < 0, num_segments, segments_N)  # one more bin takes the tokens of no segment

    def sum_by_bin(values_LNK: Tensor) -> Tensor:
        sums_LSK = values_LNK.new_zeros(values_LNK.shape[0], num_segments + 1, values_LNK.shape[2])
        return sums_LSK.index_add(1, bins_N, values_LNK)[:, :-1]

    choices_LNK = F.one_hot(chosen_LN, probs_LNK.shape[-1]).to(probs_LNK)
    choices_LSK = sum_by_bin(choices_LNK)
    tokens_LS1 = choices_LSK.sum(-1, keepdim=True).clamp(min=1)
    return sum_by_bin(probs_LNK) / tokens_LS1, choices_LSK / tokens_LS1


@torch.no_grad()
def count_experts(routings: Mapping[str, Routing], domains_BT: Tensor, num_domains: int) -> ExpertTotals:
    """Count chosen experts and sum router entropies by layer and domain; tokens of domain -1 are left out.

    Raises:
        ValueError: ``domains_BT`` has not the shape of the decisions.
    """
    tokens, entropy = [], []
    domains_N = domains_BT.flatten()
    bins_N = torch.where(domains_N < 0, num_domains, domains_N)
    for name, routing in routings.items():
        if routing.chosen_BT.shape != domains_BT.shape:
            raise ValueError(
                f"domains_BT is {tuple(domains_BT.shape)}, {name} routed {tuple(routing.chosen_BT.shape)} tokens"
            )
        probs_NK = routing.probs_BTK.flatten(0, 1).double()
        num_experts = probs_NK.shape[-1]
        choices_NK = F.one_hot(routing.chosen_BT.flatten(), num_experts).double()
        tokens.append(probs_NK.new_zeros(num_domains + 1, num_experts).index_add(0, bins_N, choices_NK)[:-1])
        entropy_N = torch.special.entr(probs_NK).sum(-1)
        entropy.append(probs_NK.new_zeros(num_domains + 1).index_add(0, bins_N, entropy_N)[:-1])
    if not tokens:
        none = torch.zeros(0, num_domains, 0, dtype=torch.float64, device=domains_BT.device)
        return ExpertTotals(none, none[..., 0:0].sum(-1), ())
    return ExpertTotals(torch.stack(tokens), torch.stack(entropy), tuple(routings))
