"""Mixtures held constant: against sums written out, by expert, by hand counts, and folded into the base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole, attach, load_adapter
from llava_moe.adapters.core.router import ExampleRouting
from llava_moe.export.constant_gates import (
    RecordingGate,
    all_alike,
    expert_names,
    expert_shares,
    gated,
    has_experts,
    held,
    one_expert,
    recorded,
    silenced,
    wide_linears,
)
from llava_moe.export.experts import expert_parts
from llava_moe.export.merge import delta_OD, fold

EXACT = {"atol": 1e-10, "rtol": 1e-10}
MIXTURES = [
    LlavaMole(num_experts=3, r=2),
    LlavaMole(num_experts=3, r=2, router="gate"),
    LlavaMole(num_experts=3, r=2, router="dense"),
    LlavaMole(num_experts=3, r=2, dispatch="sorted"),
    LlavaMole(num_experts=3, r=2, shared_A=True),
]


def mean_of(recorder: RecordingGate) -> Tensor:
    assert recorder.sum_WR is not None
    return recorder.sum_WR / recorder.num_tokens


def summed(attached: Any, weights: dict[str, float]) -> dict[str, Tensor]:
    """s sum_k w_k B_k A_k of every linear, from the tensors as they are named on disk."""
    tensors, sums = attached.state_dict(), {}
    for name, wide in attached._injection.linears.items():
        short = attached._target_model.short(name)
        experts = weights if wide.gate is not None else dict.fromkeys(wide.ranks, 1.0)
        total = 0
        for expert, weight in experts.items():
            part = f"{short}.{expert}" if expert else short
            lora_A = tensors.get(f"{part}.lora_A.weight", tensors.get(f"{short}.shared.lora_A.weight"))
            total = total + weight * tensors[f"{part}.lora_B.weight"] @ lora_A
        sums[name] = wide.scale * total
    return sums


def with_deltas(build: Callable[[], Any], deltas: dict[str, Tensor]) -> Any:
    model = build()
    for name, delta in deltas.items():
        model.get_submodule(name).weight.add_(delta)
    return model


@torch.no_grad()
@pytest.mark.parametrize("config", MIXTURES, ids=str)
@pytest.mark.parametrize("expert", [0, 2])
def test_model_held_to_an_expert_is_the_base_with_that_experts_lora(
    build: Any, dressed: Any, inputs: dict[str, Tensor], config: LlavaMole, expert: int
) -> None:
    model, attached = dressed(config)
    assert expert_names(model) == ("experts.0", "experts.1", "experts.2")
    with held(model, one_expert(model, f"experts.{expert}")):
        found = model(**inputs).logits
    expected = with_deltas(build, summed(attached, {f"experts.{expert}": 1.0}))(**inputs).logits
    torch.testing.assert_close(found, expected, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("config", MIXTURES, ids=str)
def test_even_mixture_is_the_base_with_the_mean_lora_and_folds_into_it(
    build: Any, dressed: Any, inputs: dict[str, Tensor], config: LlavaMole
) -> None:
    model, attached = dressed(config)
    expected = with_deltas(build, summed(attached, {f"experts.{k}": 1 / 3 for k in range(3)}))(**inputs).logits
    mixings = all_alike(model)
    with held(model, mixings):
        torch.testing.assert_close(model(**inputs).logits, expected, **EXACT)
    fold(model, mixings)
    attached.detach()
    torch.testing.assert_close(model(**inputs).logits, expected, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize(
    "config", [Lora(r=3, lora_alpha=5), Lora(r=3, use_rslora=True), LlavaMole(num_experts=1, r=2)], ids=str
)
def test_adapter_without_a_gate_folds_into_the_base_exactly(
    build: Any, dressed: Any, inputs: dict[str, Tensor], config: Any
) -> None:
    model, attached = dressed(config)
    expected = model(**inputs).logits
    assert (expected - build()(**inputs).logits).abs().max() > 0.1
    fold(model, {})
    attached.detach()
    torch.testing.assert_close(model(**inputs).logits, expected, **EXACT)


def test_gated_linear_without_a_constant_mixing_is_not_folded(dressed: Any) -> None:
    model, _ = dressed(MIXTURES[0])
    with pytest.raises(ValueError, match="no constant mixing"):
        fold(model, {})


@torch.no_grad()
@pytest.mark.parametrize("config", [*MIXTURES, MixLora(num_factors=5, r=2)], ids=str)
def test_model_is_as_it_was_after_holding_recording_and_silence(
    build: Any, dressed: Any, inputs: dict[str, Tensor], config: Any
) -> None:
    model, _ = dressed(config)
    before, modules = model(**inputs).logits, {name: id(module) for name, module in model.named_modules()}
    mixings = {name: torch.zeros(wide.width, len(wide.lora_A)) for name, wide in gated(model).items()}
    with pytest.raises(RuntimeError), held(model, mixings):
        raise RuntimeError
    with recorded(model) as recorders:
        for recorder in recorders.values():
            recorder.is_counted_BT = torch.ones(2, 9, dtype=torch.bool)
        torch.testing.assert_close(model(**inputs).logits, before, **EXACT)
    with silenced(model):
        assert torch.equal(model(**inputs).logits, build()(**inputs).logits)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    assert torch.equal(model(**inputs).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("router", ["straight_through", "gate", "dense"])
@pytest.mark.parametrize("dispatch", ["masked", "sorted"])
def test_recorded_mean_of_experts_is_the_hand_count_over_the_tokens_that_count(
    dressed: Any, inputs: dict[str, Tensor], router: str, dispatch: str
) -> None:
    if router == "dense" and dispatch == "sorted":
        dispatch = "auto"
    model, attached = dressed(LlavaMole(num_experts=3, r=2, router=router, dispatch=dispatch))
    counted_BT = inputs["attention_mask"].bool()
    with recorded(model) as recorders:
        for recorder in recorders.values():
            recorder.is_counted_BT = counted_BT
        model(**inputs)
    for block, routing in attached.routings().items():
        probs_NK, chosen_N = routing.probs_BTK[counted_BT].double(), routing.chosen_BT[counted_BT]
        expected = []
        for k in range(3):
            weights = probs_NK[:, k] if router != "straight_through" else torch.ones(len(probs_NK), dtype=torch.float64)
            expected.append(float((weights if router == "dense" else weights * (chosen_N == k)).mean()))
        for leaf in ("gate_proj", "down_proj"):
            name = f"model.{block}.{leaf}"
            mean_WR = mean_of(recorders[name])
            shares = expert_shares(gated(model)[name], mean_WR)
            assert list(shares.values()) == pytest.approx(expected, abs=1e-6)
            assert mean_WR.count_nonzero() <= 6


@torch.no_grad()
def test_recorded_mean_of_factors_is_the_hand_count_of_their_pairs(dressed: Any, inputs: dict[str, Tensor]) -> None:
    model, attached = dressed(MixLora(num_factors=5, r=2, target_modules=["q_proj", "down_proj"]))
    counted_BT = inputs["attention_mask"].bool()
    with recorded(model) as recorders:
        for recorder in recorders.values():
            recorder.is_counted_BT = counted_BT
        model(**inputs)
    routings = attached.routings() if attached.is_routed else {}
    assert len(recorders) == 4 and routings
    for name, recorder in recorders.items():
        assert not has_experts(gated(model)[name])
        gate: Any = gated(model)[name].gate
        routing_A, routing_B = (gate.routings()[side] for side in "AB")
        expected = torch.zeros(5, 5, dtype=torch.float64)
        for example, num_tokens in enumerate(counted_BT.sum(1).tolist()):
            for a, b in zip(routing_A.chosen_SC[example].tolist(), routing_B.chosen_SC[example].tolist(), strict=True):
                expected[b, a] += num_tokens / int(counted_BT.sum())
        torch.testing.assert_close(mean_of(recorder), expected, **EXACT)


@torch.no_grad()
def test_one_example_of_mixlora_held_to_its_own_pairs_is_itself(dressed: Any, inputs: dict[str, Tensor]) -> None:
    model, attached = dressed(MixLora(num_factors=5, r=2))
    alone = {name: value[:1] for name, value in inputs.items()}
    with recorded(model) as recorders:
        for recorder in recorders.values():
            recorder.is_counted_BT = torch.ones(1, 9, dtype=torch.bool)
        expected = model(**alone).logits
    mixings = {name: mean_of(recorder) for name, recorder in recorders.items()}
    fold(model, mixings)
    attached.detach()
    torch.testing.assert_close(model(**alone).logits, expected, **EXACT)


def test_delta_is_that_of_the_wide_linear(dressed: Any) -> None:
    model, _ = dressed(Lora(r=2, lora_alpha=6))
    wide = next(iter(wide_linears(model).values()))
    x = torch.randn(4, wide.in_features, dtype=torch.float64)
    torch.testing.assert_close(wide(x) - wide.base(x), x @ delta_OD(wide, None).T, **EXACT)


@pytest.fixture
def trained_apart(build: Any, tmp_path: Path) -> list[str]:
    """Folders of three LoRAs of different ranks, scales and targets; only the third adapts down_proj."""
    configs = [
        Lora(r=2, lora_alpha=6, target_modules=["q_proj", "up_proj"]),
        Lora(r=3, lora_alpha=3, target_modules=["q_proj", "up_proj", "o_proj"]),
        Lora(r=1, lora_alpha=4, target_modules=["o_proj", "up_proj", "down_proj"]),
    ]
    folders = []
    for number, config in enumerate(configs):
        attached = attach(build(), config)
        torch.manual_seed(10 + number)
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.normal_(std=0.2)
        folders.append(str(tmp_path / f"lora{number}"))
        attached.save(folders[-1])
    return folders


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["matrix", "block"])
def test_expert_of_mole_alone_is_the_lora_that_was_trained_apart(
    build: Any, trained_apart: list[str], inputs: dict[str, Tensor], granularity: str
) -> None:
    model = build()
    attached = attach(model, Mole(experts=trained_apart, granularity=granularity))
    assert expert_names(model) == tuple(sorted(f"experts.lora{number}" for number in range(3)))
    for number, folder in enumerate(trained_apart):
        alone = build()
        load_adapter(alone, folder)
        with held(model, one_expert(model, f"experts.lora{number}")):
            torch.testing.assert_close(model(**inputs).logits, alone(**inputs).logits, **EXACT)
        parts, bare = expert_parts(model, f"experts.lora{number}"), build()
        for name, part in parts.items():
            bare.get_submodule(name).weight.add_(part.scale * part.lora_B @ part.lora_A)
        torch.testing.assert_close(bare(**inputs).logits, alone(**inputs).logits, **EXACT)
    with silenced(model):
        assert torch.equal(model(**inputs).logits, build()(**inputs).logits)
    # Its gates start even, so the even mixture is the model itself.
    expected, mixings = model(**inputs).logits, all_alike(model)
    fold(model, mixings)
    attached.detach()
    torch.testing.assert_close(model(**inputs).logits, expected, **EXACT)


@torch.no_grad()
def test_recorded_weights_of_mole_are_its_gates_means(
    build: Any, trained_apart: list[str], inputs: dict[str, Tensor]
) -> None:
    model = build()
    attached = attach(model, Mole(experts=trained_apart, granularity="layer"))
    for name, parameter in attached.named_parameters().items():
        if name.endswith("expert_gate.weight"):
            parameter.normal_(generator=torch.Generator().manual_seed(4))
    counted_BT = inputs["attention_mask"].bool()
    with recorded(model) as recorders:
        for recorder in recorders.values():
            recorder.is_counted_BT = counted_BT
        model(**inputs)
    routing = attached.routings()["language_model.layers.1.mlp.expert_gate"]
    assert isinstance(routing, ExampleRouting)
    expected = (routing.probs_SK.double() * counted_BT.sum(1, keepdim=True)).sum(0) / counted_BT.sum()
    name = "model.language_model.layers.1.mlp.up_proj"
    mean_WR = mean_of(recorders[name])
    shares = expert_shares(gated(model)[name], mean_WR)
    assert list(shares.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert max(shares.values()) > 0.4
