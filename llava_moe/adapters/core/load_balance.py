"""Load-balance losses over router decisions, and the counts that are logged about them.

Shape suffixes: L layers, G gates, B rows, T tokens, N = B * T, S examples, K experts, C choices, M domains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_moe.adapters.core.router import ExampleRouting, Routing
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel

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
    alike_names = list(_alike(routings).values())
    together = [[routings[name] for name in names] for names in alike_names]
    means = [_means_by_segment(alike, segments_BT.flatten(), len(is_real)) for alike in together]
    if form == "per_layer":
        losses = [(prob_LSK * share_LSK).sum(-1) * prob_LSK.shape[-1] for prob_LSK, share_LSK in means]
        loss_S = _in_order(losses, alike_names, routings).mean(0)
    else:
        # It adds up layers of one number of experts alone: the method sees to that.
        ((prob_LSK, share_LSK),) = means
        loss_S = (prob_LSK.mean(0) * share_LSK.mean(0)).sum(-1)
    real_S = is_real.to(loss_S)
    total = (loss_S * real_S).sum()
    return total if reduction == "sum" else total / real_S.sum().clamp(min=1)


def _in_order(parts: Sequence[Tensor], names: Sequence[Sequence[str]], order: Iterable[str]) -> Tensor:
    """What was computed for decisions that are alike, in the order of all."""
    if len(parts) == 1:
        return parts[0]
    rows = {name: row for part, alike in zip(parts, names, strict=True) for name, row in zip(alike, part, strict=True)}
    return torch.stack([rows[name] for name in order])


def _means_by_segment(routings: Sequence[Routing], segments_N: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Mean probability and share of choices of each expert in each segment, both [L, S, K], of L layers of one K."""
    probs_LNK = torch.stack([one.probs_BTK.flatten(0, 1) for one in routings])
    chosen_LN = torch.stack([one.chosen_BT.flatten() for one in routings])
    num_layers, _, num_experts = probs_LNK.shape
    bins_N = torch.where(segments_N < 0, num_segments, segments_N)  # one more bin takes the tokens of no segment

    def sum_by_bin(values_LNK: Tensor) -> Tensor:
        return values_LNK.new_zeros(num_layers, num_segments + 1, num_experts).index_add(1, bins_N, values_LNK)[:, :-1]

    choices_LSK = sum_by_bin(F.one_hot(chosen_LN, num_experts).to(probs_LNK))
    tokens_LS1 = choices_LSK.sum(-1, keepdim=True).clamp(min=1)
    return sum_by_bin(probs_LNK) / tokens_LS1, choices_LSK / tokens_LS1


@torch.no_grad()
def count_experts(routings: Mapping[str, AnyRouting], domains_BT: Tensor, num_domains: int) -> ExpertTotals:
    """Count the tokens that each expert served and sum router entropies, by layer and domain.

    Tokens of domain -1 are left out. A decision made once for an example counts for each of its tokens, in equal parts
    for each of its choices, or in proportion to the probabilities where all experts serve; such decisions of one
    decoder layer are averaged, since every linear may make its own.

    Decisions of one shape are counted together: a model of 32 layers may make 448, and a few operations on each would
    cost more than a hundredth of the step. Nothing here waits for a device.

    Raises:
        ValueError: ``domains_BT`` has not the shape of the decisions.
    """
    rows: dict[str, int] = {}
    row_of = {name: rows.setdefault(_layer_of(name, one), len(rows)) for name, one in routings.items()}
    counts: list[tuple[list[int], Tensor, Tensor]] = []
    domains_MN = domains_BT.flatten() == torch.arange(num_domains, device=domains_BT.device)[:, None]
    for names in _alike(routings).values():
        together = [routings[name] for name in names]
        by_token = [one for one in together if isinstance(one, Routing)]
        by_example = [one for one in together if isinstance(one, ExampleRouting)]
        if by_token:
            if by_token[0].chosen_BT.shape != domains_BT.shape:
                routed = tuple(by_token[0].chosen_BT.shape)
                raise ValueError(f"domains_BT is {tuple(domains_BT.shape)}, {names[0]} routed {routed} tokens")
            counted = _count_by_token(by_token, domains_MN.double())
        else:
            counted = _count_by_example(by_example, domains_BT.flatten(), num_domains)
        counts.append(([row_of[name] for name in names], *counted))
    return _averaged(counts, tuple(rows), num_domains, domains_BT.device)


def _layer_of(name: str, routing: AnyRouting) -> str:
    return (TargetModel.block_of(name) or name) if isinstance(routing, ExampleRouting) else name


def _alike(routings: Mapping[str, AnyRouting]) -> dict[tuple[object, ...], list[str]]:
    """Names of the decisions that can be counted together: of one shape, and for the same examples."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, one in routings.items():
        if isinstance(one, ExampleRouting):
            chosen = None if one.chosen_SC is None else one.chosen_SC.shape[-1]
            shape: tuple[object, ...] = (id(one.segments_BT), tuple(one.probs_SK.shape), chosen)
        else:
            shape = (tuple(one.probs_BTK.shape),)
        alike.setdefault(shape, []).append(name)
    return alike


def _averaged(
    counts: Sequence[tuple[Sequence[int], Tensor, Tensor]],
    layer_names: tuple[str, ...],
    num_domains: int,
    device: torch.device,
) -> ExpertTotals:
    """The mean over the gates of each layer, all layers as wide as the widest.

    Args:
        counts: the layers of G gates that were counted together, their tokens [G, M, K] and entropies [G, M].
    """
    num_layers = len(layer_names)
    if len(counts) == 1 and (per_layer := _evenly_in_turn(counts[0][0], num_layers)):
        _, tokens_GMK, entropy_GM = counts[0]
        tokens_LMK = tokens_GMK.unflatten(0, (num_layers, per_layer)).mean(1)
        entropy_LM = entropy_GM.unflatten(0, (num_layers, per_layer)).mean(1)
        return ExpertTotals(tokens_LMK, entropy_LM, layer_names, (tokens_LMK.shape[-1],) * num_layers)
    gates: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layer_names]
    for rows, tokens_GMK, entropy_GM in counts:
        for row, tokens_MK, entropy_M in zip(rows, tokens_GMK, entropy_GM, strict=True):
            gates[row].append((tokens_MK, entropy_M))
    num_experts = tuple(of_layer[0][0].shape[-1] for of_layer in gates)
    tokens_LMK = torch.zeros(num_layers, num_domains, max(num_experts, default=0), dtype=torch.float64, device=device)
    entropy_LM = tokens_LMK.new_zeros(num_layers, num_domains)
    for row, of_layer in enumerate(gates):
        tokens, entropies = zip(*of_layer, strict=True)
        tokens_LMK[row, :, : num_experts[row]] = torch.stack(tokens).mean(0)
        entropy_LM[row] = torch.stack(entropies).mean(0)
    return ExpertTotals(tokens_LMK, entropy_LM, layer_names, num_experts)


def _evenly_in_turn(rows: Sequence[int], num_layers: int) -> int | None:
    """How many gates each layer has, where all have as many and stand one layer after the other."""
    per_layer = len(rows) // num_layers
    return per_layer if list(rows) == [row for row in range(num_layers) for _ in range(per_layer)] else None


def _count_by_token(routings: Sequence[Routing], domains_MN: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [L, M, K] and sums of entropies [L, M] of routers of one width."""
    probs_LNK = torch.stack([one.probs_BTK.flatten(0, 1) for one in routings]).double()
    chosen_LN1 = torch.stack([one.chosen_BT.flatten() for one in routings]).unsqueeze(-1)
    is_chosen_LNK = chosen_LN1 == torch.arange(probs_LNK.shape[-1], device=chosen_LN1.device)
    entropy_LN = torch.special.entr(probs_LNK).sum(-1)
    return domains_MN @ is_chosen_LNK.double(), entropy_LN @ domains_MN.T


def _count_by_example(routings: Sequence[ExampleRouting], domains_N: Tensor, num_domains: int) -> tuple[Tensor, Tensor]:
    """Tokens [G, M, K] and sums of entropies [G, M] of gates that decide for the same examples."""
    probs_GSK = torch.stack([one.probs_SK for one in routings]).double()
    share_GSK = probs_GSK
    chosen = [one.chosen_SC for one in routings if one.chosen_SC is not None]
    if chosen:
        chosen_GSC = torch.stack(chosen)
        share_GSK = torch.zeros_like(probs_GSK).scatter_(-1, chosen_GSC, 1 / chosen_GSC.shape[-1])
    num_examples, segments_N = probs_GSK.shape[1], routings[0].segments_BT.flatten()
    bins_N = torch.where((segments_N >= 0) & (domains_N >= 0), domains_N * num_examples + segments_N, -1)
    # One bin more takes the tokens that do not count.
    counts = probs_GSK.new_zeros(num_domains * num_examples + 1)
    bins_N = torch.where(bins_N < 0, len(counts) - 1, bins_N)
    counts.index_put_((bins_N,), counts.new_ones(()), accumulate=True)
    tokens_MS = counts[:-1].view(num_domains, num_examples)
    return tokens_MS @ share_GSK, torch.special.entr(probs_GSK).sum(-1) @ tokens_MS.T
