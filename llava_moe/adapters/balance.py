"""Load-balance losses over router decisions, and the counts that are logged about them.

Shape suffixes: L layers, B rows, T tokens, N = B * T, S examples, K experts, M domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_moe.adapters.body import Body
from llava_moe.adapters.router import ExampleRouting, Routing
from llava_moe.adapters.segments import Segments

LOAD_BALANCE_FORMS = ("per_layer", "pooled")


AnyRouting = Routing | ExampleRouting


@dataclass(frozen=True)
class ExpertTotals:
    """Sums over tokens, so that ranks and micro-batches add up.

    Attributes:
        tokens: float64 [L, M, K], how many tokens of a domain an expert served; 0 beyond a layer's own experts.
        entropy: float64 [L, M], sum over tokens of the entropy of the router's softmax, in nats.
        layer_names: the L routed blocks.
        num_experts: how many of the K columns are each layer's own.
    """

    tokens: Tensor
    entropy: Tensor
    layer_names: tuple[str, ...]
    num_experts: tuple[int, ...]


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
    segments_BT, num_segments = segments.of_tokens()
    if is_real is None:
        is_real = torch.ones(int(num_segments), dtype=torch.bool, device=segments_BT.device)
    elif segments_BT.device.type == "cpu" and int(num_segments) != len(is_real):
        raise ValueError(f"is_real has {len(is_real)} entries, the last forward pass {int(num_segments)} examples")
    means = [_means_by_segment(routing, segments_BT.flatten(), len(is_real)) for routing in routings.values()]
    if form == "per_layer":
        loss_S = torch.stack([(prob_SK * share_SK).sum(-1) * prob_SK.shape[-1] for prob_SK, share_SK in means]).mean(0)
    else:
        prob_LSK, share_LSK = (torch.stack(values) for values in zip(*means, strict=True))
        loss_S = (prob_LSK.mean(0) * share_LSK.mean(0)).sum(-1)
    real_S = is_real.to(loss_S)
    total = (loss_S * real_S).sum()
    return total if reduction == "sum" else total / real_S.sum().clamp(min=1)


def _means_by_segment(routing: Routing, segments_N: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Mean probability and share of choices of each expert in each segment, both [S, K]."""
    probs_NK, chosen_N = routing.probs_BTK.flatten(0, 1), routing.chosen_BT.flatten()
    num_experts = probs_NK.shape[-1]
    bins_N = torch.where(segments_N < 0, num_segments, segments_N)  # one more bin takes the tokens of no segment

    def sum_by_bin(values_NK: Tensor) -> Tensor:
        return values_NK.new_zeros(num_segments + 1, num_experts).index_add(0, bins_N, values_NK)[:-1]

    choices_SK = sum_by_bin(F.one_hot(chosen_N, num_experts).to(probs_NK))
    tokens_S1 = choices_SK.sum(-1, keepdim=True).clamp(min=1)
    return sum_by_bin(probs_NK) / tokens_S1, choices_SK / tokens_S1


@torch.no_grad()
def count_experts(routings: Mapping[str, AnyRouting], domains_BT: Tensor, num_domains: int) -> ExpertTotals:
    """Count the tokens that each expert served and sum router entropies, by layer and domain.

    Tokens of domain -1 are left out. A decision made once for an example counts for each of its tokens, in equal parts
    for each of its choices, or in proportion to the probabilities where all experts serve; such decisions of one
    decoder layer are averaged, since every linear may make its own.

    Raises:
        ValueError: ``domains_BT`` has not the shape of the decisions.
    """
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, routing in routings.items():
        if isinstance(routing, ExampleRouting):
            counted = _count_by_example(routing, domains_BT, num_domains)
            layers.setdefault(Body.block_of(name) or name, []).append(counted)
        else:
            layers[name] = [_count_by_token(name, routing, domains_BT, num_domains)]
    most = max((gates[0][0].shape[-1] for gates in layers.values()), default=0)
    tokens_LMK = torch.zeros(len(layers), num_domains, most, dtype=torch.float64, device=domains_BT.device)
    entropy_LM = tokens_LMK.new_zeros(len(layers), num_domains)
    for row, gates in enumerate(layers.values()):
        for tokens_MK, entropy_M in gates:
            tokens_LMK[row, :, : tokens_MK.shape[-1]] += tokens_MK / len(gates)
            entropy_LM[row] += entropy_M / len(gates)
    num_experts = tuple(gates[0][0].shape[-1] for gates in layers.values())
    return ExpertTotals(tokens_LMK, entropy_LM, tuple(layers), num_experts)


def _count_by_token(name: str, routing: Routing, domains_BT: Tensor, num_domains: int) -> tuple[Tensor, Tensor]:
    if routing.chosen_BT.shape != domains_BT.shape:
        raise ValueError(
            f"domains_BT is {tuple(domains_BT.shape)}, {name} routed {tuple(routing.chosen_BT.shape)} tokens"
        )
    probs_NK = routing.probs_BTK.flatten(0, 1).double()
    num_experts = probs_NK.shape[-1]
    bins_N = domains_BT.flatten()
    bins_N = torch.where(bins_N < 0, num_domains, bins_N)
    choices_NK = F.one_hot(routing.chosen_BT.flatten(), num_experts).double()
    tokens_MK = probs_NK.new_zeros(num_domains + 1, num_experts).index_add(0, bins_N, choices_NK)
    entropy_M = probs_NK.new_zeros(num_domains + 1).index_add(0, bins_N, torch.special.entr(probs_NK).sum(-1))
    return tokens_MK[:-1], entropy_M[:-1]


def _count_by_example(routing: ExampleRouting, domains_BT: Tensor, num_domains: int) -> tuple[Tensor, Tensor]:
    probs_SK = routing.probs_SK.double()
    share_SK = probs_SK
    if routing.chosen_SC is not None:
        share_SK = F.one_hot(routing.chosen_SC, probs_SK.shape[-1]).double().mean(1)
    segments_N, domains_N = routing.segments_BT.flatten(), domains_BT.flatten()
    is_counted_N = (segments_N >= 0) & (domains_N >= 0)
    tokens_MS = probs_SK.new_zeros(num_domains, probs_SK.shape[0])
    ones_N = probs_SK.new_ones(int(is_counted_N.sum()))
    tokens_MS.index_put_((domains_N[is_counted_N], segments_N[is_counted_N]), ones_N, accumulate=True)
    return tokens_MS @ share_SK, tokens_MS @ torch.special.entr(probs_SK).sum(-1)
