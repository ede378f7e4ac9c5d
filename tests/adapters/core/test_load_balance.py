"""Load-balance losses by hand and against a loop; counts of experts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import pytest
import torch
from torch import Tensor

from llava_moe.adapters.core.load_balance import count_experts, load_balance_loss
from llava_moe.adapters.core.router import ExampleRouting, Routing
from llava_moe.adapters.core.segments import Segments


class Given(Segments):
    """Segments that are told, not heard."""

    def __init__(self, segments_BT: Tensor) -> None:
        super().__init__()
        self.segments_BT = segments_BT

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        return self.segments_BT, self.segments_BT.max() + 1


def routing(probs: list[list[float]] | Tensor, chosen: list[int] | None = None) -> Routing:
    probs_BTK = torch.as_tensor(probs)[None] if not isinstance(probs, Tensor) else probs
    return Routing(probs_BTK, probs_BTK.argmax(-1) if chosen is None else torch.tensor([chosen]))


def loss(layers: list[Routing], segments: list[list[int]], form: str, **options: object) -> float:
    named = {f"layers.{i}.mlp": layer for i, layer in enumerate(layers)}
    given = {"is_real": None, "reduction": "mean"} | options
    return load_balance_loss(named, Given(torch.tensor(segments)), form=form, **given).item()  # type: ignore[arg-type]


def added(tensors: Iterable[Tensor]) -> Tensor:
    return cast(Tensor, sum(tensors))


def loop(layers: list[Routing], segments_BT: Tensor, form: str, is_real: list[bool], reduction: str) -> Tensor:
    """Example by example, layer by layer, token by token, in float64."""
    num_experts = layers[0].probs_BTK.shape[-1]
    losses = []
    for segment in range(int(segments_BT.max()) + 1):
        if not is_real[segment]:
            continue
        means, shares = [], []
        for layer in layers:
            own = [(b, t) for b, t in (segments_BT == segment).nonzero().tolist()]
            mean = added(layer.probs_BTK[b, t].double() for b, t in own) / len(own)
            share = torch.zeros(num_experts, dtype=torch.float64)
            for b, t in own:
                share[layer.chosen_BT[b, t]] += 1 / len(own)
            means.append(mean)
            shares.append(share)
        if form == "per_layer":
            parts = [num_experts * (m * s).sum() for m, s in zip(means, shares, strict=True)]
            losses.append(added(parts) / len(layers))
        else:
            losses.append((added(means) / len(layers) * (added(shares) / len(layers))).sum())
    total = sum(losses, torch.zeros((), dtype=torch.float64))
    return total if reduction == "sum" else total / max(len(losses), 1)


def test_uniform_probabilities_cost_one_whatever_the_choices() -> None:
    uniform = routing([[1 / 3] * 3] * 4, [2, 2, 2, 0])
    assert loss([uniform, uniform], [[0] * 4], "per_layer") == pytest.approx(1)
    assert loss([uniform, uniform], [[0] * 4], "pooled") == pytest.approx(1 / 3)


def test_certain_choice_of_one_expert_costs_the_most() -> None:
    collapsed = routing([[1.0, 0.0, 0.0]] * 4)
    assert loss([collapsed], [[0] * 4], "per_layer") == pytest.approx(3)
    assert loss([collapsed], [[0] * 4], "pooled") == pytest.approx(1)


def test_hand_computed_example() -> None:
    # P = (0.6, 0.4), C = (2/3, 1/3): 2 * (0.4 + 0.4 / 3) = 16/15; without the factor 2: 8/15.
    layer = routing([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    assert loss([layer], [[0, 0, 0]], "per_layer") == pytest.approx(16 / 15)
    assert loss([layer], [[0, 0, 0]], "pooled") == pytest.approx(8 / 15)


def test_layers_that_collapse_in_turn_cost_per_layer_but_not_pooled() -> None:
    first, second = routing([[1.0, 0.0]] * 3), routing([[0.0, 1.0]] * 3)
    assert loss([first, second], [[0] * 3], "per_layer") == pytest.approx(2)
    assert loss([first, second], [[0] * 3], "pooled") == pytest.approx(1 / 2)


def test_examples_count_alike_whatever_their_length() -> None:
    # Example 0 (3 tokens) is collapsed: 2. Example 1 (1 token) is undecided: 1.
    layer = routing([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    assert loss([layer], [[0, 0, 0, 1]], "per_layer") == pytest.approx(1.5)
    assert loss([layer], [[0, 0, 0, 1]], "per_layer", reduction="sum") == pytest.approx(3)


def test_tokens_of_no_example_do_not_count() -> None:
    layer = routing([[0.0, 1.0], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.0, 1.0]])
    assert loss([layer], [[-1, 0, 0, 0, -1]], "per_layer") == pytest.approx(16 / 15)


def test_examples_that_are_not_real_do_not_count() -> None:
    layer = routing([[1.0, 0.0], [0.5, 0.5]])
    options = {"is_real": torch.tensor([False, True])}
    assert loss([layer], [[0, 1]], "per_layer", **options) == pytest.approx(1)
    assert loss([layer], [[0, 1]], "per_layer", reduction="sum", **options) == pytest.approx(1)
    assert loss([layer], [[0, 1]], "per_layer", is_real=torch.tensor([False, False])) == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("form", ["per_layer", "pooled"])
@pytest.mark.parametrize("num_experts", [2, 3, 5])
def test_loss_and_gradient_equal_the_loop(form: str, reduction: str, num_experts: int) -> None:
    torch.manual_seed(num_experts)
    logits = torch.randn(3, 2, 11, num_experts, requires_grad=True)
    layers = [routing(layer.softmax(-1)) for layer in logits]
    segments = torch.tensor([[-1, -1, 0, 0, 0, 0, 1, 2, 2, 2, 2], [3, 3, 3, 3, 3, 3, 3, 4, 4, -1, -1]])
    is_real = [True, True, False, True, True]
    named = {str(i): layer for i, layer in enumerate(layers)}
    ours = load_balance_loss(named, Given(segments), torch.tensor(is_real), reduction, form)
    reference = loop(layers, segments, form, is_real, reduction)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference.float())
    (got,), (expected,) = (torch.autograd.grad(value, logits, retain_graph=True) for value in (ours, reference))
    torch.testing.assert_close(got, expected)
    assert got.any()


def test_misfitting_arguments_are_refused() -> None:
    layer = routing([[0.5, 0.5]] * 2)
    with pytest.raises(ValueError, match="3 entries"):
        loss([layer], [[0, 1]], "per_layer", is_real=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="median"):
        loss([layer], [[0, 1]], "per_layer", reduction="median")
    with pytest.raises(ValueError, match="per_token"):
        loss([layer], [[0, 1]], "per_token")


def test_counts_and_entropies_by_layer_and_domain() -> None:
    first = routing([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [1.0, 0.0]])
    second = routing([[0.1, 0.9]] * 4)
    totals = count_experts({"a": first, "b": second}, torch.tensor([[0, 2, 0, -1]]), 3)
    assert totals.layer_names == ("a", "b")
    assert totals.tokens.dtype == totals.entropy.dtype == torch.float64
    assert totals.tokens.tolist() == [[[1, 1], [0, 0], [1, 0]], [[0, 2], [0, 0], [0, 1]]]

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    expected = [[entropy(0.9) + entropy(0.2), 0, math.log(2)], [2 * entropy(0.1), 0, entropy(0.1)]]
    torch.testing.assert_close(totals.entropy, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_a_certain_router_has_no_entropy() -> None:
    totals = count_experts({"a": routing([[1.0, 0.0]])}, torch.tensor([[0]]), 1)
    assert totals.entropy.item() == 0


def test_counting_nothing_has_the_shape_of_nothing() -> None:
    totals = count_experts({}, torch.tensor([[0, 1]]), 2)
    assert totals.tokens.shape == (0, 2, 0) and totals.entropy.shape == (0, 2) and totals.layer_names == ()


def test_domains_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="domains_BT"):
        count_experts({"a": routing([[1.0, 0.0]])}, torch.tensor([[0, 1]]), 2)


def counted_one_by_one(name: str, one: Routing | ExampleRouting, domains_BT: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Tokens [M, K] and sums of entropies [M] of one router, token by token."""
    probs_XK = one.probs_BTK.flatten(0, 1) if isinstance(one, Routing) else one.probs_SK
    tokens_MK = torch.zeros(num, probs_XK.shape[-1], dtype=torch.float64)
    entropy_M = torch.zeros(num, dtype=torch.float64)
    for place, domain in enumerate(domains_BT.flatten().tolist()):
        unit = place if isinstance(one, Routing) else int(one.segments_BT.flatten()[place])
        if domain < 0 or unit < 0:
            continue
        entropy_M[domain] -= sum(float(p) * math.log(float(p)) for p in probs_XK[unit])
        if isinstance(one, Routing):
            tokens_MK[domain, one.chosen_BT.flatten()[place]] += 1
        elif one.chosen_SC is None:
            tokens_MK[domain] += one.probs_SK[unit].double()
        else:
            tokens_MK[domain, one.chosen_SC[unit]] += 1 / one.chosen_SC.shape[-1]
    return tokens_MK, entropy_M


def test_counts_equal_those_of_each_router_by_itself() -> None:
    """Routers of two widths, gates that choose, gates that weigh and gates that decide for each token, in one model."""
    torch.manual_seed(0)
    domains_BT = torch.tensor([[0, 0, 1, 1, 1, -1, 2], [2, 2, -1, 0, 0, 1, 1]])
    segments_BT = torch.tensor([[0, 0, 1, 1, 1, -1, 2], [3, 3, -1, 4, 4, 5, 5]])
    every_BT = torch.arange(14).view(2, 7)

    def gate(num: int, chosen: int | None, segments: Tensor = segments_BT, units: int = 6) -> ExampleRouting:
        probs_SK = torch.randn(units, num).softmax(-1)
        return ExampleRouting(probs_SK, None if chosen is None else probs_SK.topk(chosen).indices, segments)

    given: dict[str, Routing | ExampleRouting] = {
        "layers.0.mlp": routing(torch.randn(2, 7, 3).softmax(-1)),
        "layers.1.mlp": routing(torch.randn(2, 7, 5).softmax(-1)),
        "layers.2.mlp": routing(torch.randn(2, 7, 3).softmax(-1)),
        "layers.3.q.A": gate(4, 2),
        "layers.4.q.A": gate(4, 2),
        "layers.3.q.B": gate(4, 2),
        "layers.5.q": gate(3, None),
        "layers.5.k": gate(3, None),
        "layers.3.k.A": gate(4, 2, every_BT, 14),
    }
    found = count_experts(given, domains_BT, 3)
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, one in given.items():
        layer = name if isinstance(one, Routing) else name[: len("layers.0")]
        layers.setdefault(layer, []).append(counted_one_by_one(name, one, domains_BT, 3))
    assert found.layer_names == tuple(layers) and found.num_experts == (3, 5, 3, 4, 4, 3)
    for row, gates in enumerate(layers.values()):
        tokens_MK = added(tokens for tokens, _ in gates) / len(gates)
        entropy_M = added(entropy for _, entropy in gates) / len(gates)
        torch.testing.assert_close(found.tokens[row, :, : tokens_MK.shape[-1]], tokens_MK)
        torch.testing.assert_close(found.entropy[row], entropy_M, atol=1e-6, rtol=1e-6)
        assert not found.tokens[row, :, tokens_MK.shape[-1] :].any()
