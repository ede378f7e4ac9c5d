"""MoLE against a per-example reference: gates, experts of unlike ranks and targets, masking, the balance loss."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llava_moe.adapters import Attached, Lora, Mole, attach, drop_experts, load_adapter, mask_experts
from llava_moe.adapters.core.router import ExampleRouting, Routing
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.methods.mole_balance import MeanWeightBalance
from llava_moe.adapters.methods.mole_experts import Expert, ExpertBank
from llava_moe.adapters.methods.mole_gate import ExpertGate
from llava_moe.errors import UserError
from llava_moe.model import recompute_activations

Build = Callable[[], LlamaForCausalLM]
EVERYWHERE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LENGTHS, PROMPTS = (5, 9, 4), (2, 5, 4)


def write_lora(build: Build, folder: Path, seed: int, **settings: Any) -> str:
    """A LoRA with A and B that matter."""
    attached = attach(build(), Lora(**settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.normal_(std=0.2)
    attached.save(folder)
    return str(folder)


@pytest.fixture
def two(build_llama: Build, tmp_path: Path) -> list[str]:
    """Two LoRAs of unlike ranks, scales and targets: the second leaves out k_proj, o_proj and up_proj."""
    wide = write_lora(build_llama, tmp_path / "wide", 1, r=3, lora_alpha=5)
    narrow = write_lora(
        build_llama,
        tmp_path / "narrow",
        2,
        r=5,
        lora_alpha=8,
        target_modules=("q_proj", "v_proj", "gate_proj", "down_proj"),
    )
    return [wide, narrow]


@pytest.fixture
def three(build_llama: Build, tmp_path: Path, two: list[str]) -> list[str]:
    return [*two, write_lora(build_llama, tmp_path / "third", 3, r=2, lora_alpha=2, use_rslora=True)]


def randomize_gates(attached: Attached) -> None:
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in attached.trainable_parameters().values():
            parameter.normal_(std=0.5)


def packed() -> dict[str, Any]:
    torch.manual_seed(5)
    return {
        "input_ids": torch.randint(1, 60, (1, sum(LENGTHS))),
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
        "use_cache": False,
    }


def labels() -> Tensor:
    ids = packed()["input_ids"]
    marks = [torch.arange(length) >= prompt for length, prompt in zip(LENGTHS, PROMPTS, strict=True)]
    return torch.where(torch.cat(marks)[None], ids, -100)


def gates_of(model: torch.nn.Module) -> dict[str, ExpertGate]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ExpertGate)}


def probs_of(routing: Routing | ExampleRouting | None) -> Tensor:
    assert isinstance(routing, ExampleRouting)
    return routing.probs_SK


# --- by hand ---------------------------------------------------------------------------------------------------------


def small_gate(temperature: float = 1.0) -> ExpertGate:
    return ExpertGate(Segments(), ("a", "b"), {"a": 1, "b": 1}, temperature, torch.float64, torch.device("cpu"))


def test_gate_is_the_softmax_of_normalized_deltas_by_hand() -> None:
    gate = small_gate(temperature=2.0)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    # E = (3, 4): mean square 12.5, so normalised 3/sqrt(12.5), 4/sqrt(12.5); e is the identity, tau = 2.
    logits = gate(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    expected = torch.tensor([[3.0, 4.0]], dtype=torch.float64) / math.sqrt(12.5) / 2
    torch.testing.assert_close(logits, expected, atol=1e-14, rtol=0)
    first = 1 / (1 + math.exp((4 - 3) / math.sqrt(12.5) / 2))
    assert logits.softmax(-1)[0, 0].item() == pytest.approx(first, abs=1e-14)


def test_the_scale_of_the_deltas_does_not_matter_and_no_delta_is_no_preference() -> None:
    gate = small_gate()
    with torch.no_grad():
        gate.weight.normal_()
    deltas = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    torch.testing.assert_close(gate(deltas), gate(deltas * 1e-4), atol=1e-9, rtol=0)
    nothing = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    logits = gate(nothing)
    assert logits.tolist() == [[0.0, 0.0]]
    logits.sum().backward()
    assert nothing.grad is not None and bool(nothing.grad.isfinite().all())


def routing(weights: list[list[float]]) -> ExampleRouting:
    probs = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    return ExampleRouting(probs, None, torch.zeros(1, 1, dtype=torch.int64))


def test_balance_loss_by_hand() -> None:
    # Two gates, two examples: q = ((0.9 + 0.5 + 0.7 + 0.1) / 4, the rest) = (0.55, 0.45).
    routings = {"a": routing([[0.9, 0.1], [0.5, 0.5]]), "b": routing([[0.7, 0.3], [0.1, 0.9]])}
    loss = MeanWeightBalance()(routings, Segments(), None, "mean")
    assert loss.item() == pytest.approx(-math.log(0.55) - math.log(0.45), abs=1e-14)
    # Only the first example is real: q = (0.8, 0.2).
    loss = MeanWeightBalance()(routings, Segments(), torch.tensor([True, False]), "sum")
    assert loss.item() == pytest.approx(-math.log(0.8) - math.log(0.2), abs=1e-14)


def test_balance_loss_has_the_gradient_of_its_formula() -> None:
    routings = {"a": routing([[0.9, 0.1], [0.5, 0.5]]), "b": routing([[0.7, 0.3], [0.1, 0.9]])}
    leaves = [one.probs_SK for one in routings.values()]
    got = torch.autograd.grad(MeanWeightBalance()(routings, Segments(), None, "mean"), leaves)
    expected = torch.autograd.grad(-torch.stack(leaves).mean((0, 1)).log().sum(), leaves)
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)


def test_parts_of_a_step_add_up_to_its_balance_loss_and_gradient() -> None:
    weights = [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]
    whole = routing(weights)
    balance, segments = MeanWeightBalance(), Segments()
    loss = balance({"a": whole}, segments, None, "sum")
    (expected,) = torch.autograd.grad(loss, whole.probs_SK)
    parts = [routing(weights[:1]), routing(weights[1:])]
    totals = torch.stack([balance.totals({"a": part}, segments, None) for part in parts]).sum(0)
    pieces = [balance({"a": part}, segments, None, "sum", totals) for part in parts]
    assert sum(piece.item() for piece in pieces) == pytest.approx(loss.item(), abs=1e-14)
    got = torch.cat([torch.autograd.grad(piece, part.probs_SK)[0] for piece, part in zip(pieces, parts, strict=True)])
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)


def test_a_part_without_real_examples_adds_nothing() -> None:
    balance, nobody = MeanWeightBalance(), torch.tensor([False])
    one = {"a": routing([[0.9, 0.1]])}
    assert balance.totals(one, Segments(), nobody).tolist() == [0, 0, 0]
    loss = balance(one, Segments(), nobody, "sum", torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, one["a"].probs_SK)[0].any()


def test_even_gates_have_balance_n_log_n(build_llama: Build, three: list[str]) -> None:
    model = build_llama()
    attached = attach(model, Mole(three[::2], granularity="layer"))
    model(**packed())
    assert attached.auxiliary_loss().item() == pytest.approx(2 * math.log(2), abs=1e-6)
    for one in attached.routings().values():
        torch.testing.assert_close(probs_of(one), torch.full_like(probs_of(one), 0.5))
    assert attached.load_balance_coef == 0.5


# --- against a reference ---------------------------------------------------------------------------------------------


def reference_linear(
    x_TD: Tensor, base: torch.nn.Linear, experts: list[tuple[float, Tensor, Tensor]], weights: Tensor
) -> Tensor:
    """One example: y = W x + sum_i G_i s_i B_i A_i x."""
    y_TO = F.linear(x_TD, base.weight, base.bias)
    for (scale, a, b), weight in zip(experts, weights, strict=True):
        y_TO = y_TO + weight * scale * (x_TD @ a.T @ b.T)
    return y_TO


def reference_weights(deltas: list[Tensor], e: Tensor, log_temperature: Tensor) -> Tensor:
    """Eq. 9-11 for one example, on mean deltas."""
    joined = torch.cat(deltas)
    return (joined / joined.square().mean().sqrt() @ e / log_temperature.exp()).softmax(-1)


def tensors_of(bank: ExpertBank) -> list[tuple[float, Tensor, Tensor]]:
    parts = bank.split(bank.lora_A.detach(), bank.lora_B.detach())
    return [
        (one.scale, parts[f"experts.{one.name}.lora_A.weight"], parts[f"experts.{one.name}.lora_B.weight"])
        for one in bank.experts
    ]


@pytest.mark.parametrize("core", ["lean", "autograd"])
def test_matrix_gates_equal_a_per_example_reference(build_llama: Build, three: list[str], core: str) -> None:
    model = build_llama().double()
    attached = attach(model, Mole(three), core)
    randomize_gates(attached)
    attached.mark_prompts(labels())
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def see(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            args[0].requires_grad_() if args[0].is_leaf else args[0].retain_grad()
            seen[name] = (args[0], output)

        return hook

    banks = {name: module for name, module in model.named_modules() if isinstance(module, ExpertBank)}
    name = "model.layers.1.mlp.down_proj"
    bank = banks[name]
    handle = bank.register_forward_hook(see(name))
    model(**packed())
    handle.remove()
    x_BTD, y_BTO = seen[name]
    upstream = torch.randn_like(y_BTO)
    gate = bank.expert_gate
    assert isinstance(gate, ExpertGate)
    got = torch.autograd.grad(y_BTO, [x_BTD, gate.weight, gate.log_temperature], upstream)
    x = x_BTD.detach().clone().requires_grad_()
    e = gate.weight.detach().clone().requires_grad_()
    log_temperature = gate.log_temperature.detach().clone().requires_grad_()
    rows = []
    for x_TD, prompt in zip(x[0].split(LENGTHS), PROMPTS, strict=True):
        experts = tensors_of(bank)
        deltas = [scale * (x_TD[:prompt] @ a.T @ b.T).mean(0) for scale, a, b in experts]
        rows.append(reference_linear(x_TD, bank.base, experts, reference_weights(deltas, e, log_temperature)))
    expected = torch.cat(rows)
    torch.testing.assert_close(y_BTO[0], expected, atol=1e-12, rtol=1e-12)
    wanted = torch.autograd.grad(expected, [x, e, log_temperature], upstream[0])
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("granularity", ["layer", "block", "network"])
def test_unit_gates_equal_a_reference_that_is_told_their_readers(
    build_llama: Build, three: list[str], granularity: str
) -> None:
    model = build_llama().double()
    attached = attach(model, Mole(three, granularity=granularity))
    randomize_gates(attached)
    inputs: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, ExpertBank):
            keep = lambda module, args, name=name: inputs.__setitem__(name, args[0].detach())  # noqa: E731
            module.register_forward_pre_hook(keep)
    attached.mark_prompts(labels())
    model(**packed())
    for name, gate in gates_of(model).items():
        readers = {
            "model.layers.0.self_attn": ("q_proj", "k_proj", "v_proj"),
            "model.layers.1.self_attn": ("q_proj", "k_proj", "v_proj"),
            "model.layers.0.mlp": ("gate_proj", "up_proj"),
            "model.layers.1.mlp": ("gate_proj", "up_proj"),
        }
        owner = name.rpartition(".")[0]
        block = {"layer": owner, "block": f"{owner}.self_attn", "network": "model.layers.0.self_attn"}[granularity]
        banks = [(f"{block}.{leaf}", model.get_submodule(f"{block}.{leaf}")) for leaf in readers[block]]
        for example, (start, prompt) in enumerate(zip((0, 5, 14), PROMPTS, strict=True)):
            deltas: dict[str, list[Tensor]] = {expert: [] for expert in gate.widths}
            for bank_name, bank in banks:
                assert isinstance(bank, ExpertBank)
                x_TD = inputs[bank_name][0, start : start + prompt]
                for expert, (scale, a, b) in zip(bank.experts, tensors_of(bank), strict=True):
                    deltas[expert.name].append(scale * (x_TD @ a.T @ b.T).mean(0))
            joined = [part for parts in deltas.values() for part in parts]
            expected = reference_weights(joined, gate.weight, gate.log_temperature)
            assert gate.routing is not None
            torch.testing.assert_close(gate.routing.probs_SK[example], expected, atol=1e-12, rtol=1e-12)
    counts = {"layer": 4, "block": 2, "network": 1}
    assert len(gates_of(model)) == counts[granularity]
    assert all(
        torch.allclose(probs_of(one).sum(-1), torch.ones(3, dtype=torch.float64))
        for one in attached.routings().values()
    )


def test_balance_gradient_reaches_every_gate_and_nothing_else(build_llama: Build, three: list[str]) -> None:
    model = build_llama()
    attached = attach(model, Mole(three, granularity="block"))
    randomize_gates(attached)
    attached.mark_prompts(labels())
    model(**packed())
    attached.auxiliary_loss().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == set(attached.trainable_parameters()) and trained
    assert all("expert_gate" in name for name in trained)


# --- identities ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["matrix", "layer", "block", "network"])
@pytest.mark.parametrize("exact", [False, True])
def test_one_expert_and_a_mask_of_one_are_that_lora_to_the_bit(
    build_llama: Build, two: list[str], granularity: str, exact: bool
) -> None:
    for expert, mask in enumerate(([1, 0], [0, 1])):
        plain = build_llama()
        load_adapter(plain, two[expert])
        expected = plain(**packed()).logits
        for config in (
            Mole([two[expert]], granularity=granularity, exact=exact),
            Mole(two, granularity=granularity, mask=mask, exact=exact),
        ):
            model = build_llama()
            attached = attach(model, config)
            assert torch.equal(model(**packed()).logits, expected)
            assert not attached.is_routed and not attached.has_balance_loss and not attached.trainable_parameters()


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["matrix", "layer", "block", "network"])
def test_masking_a_trained_mole_to_one_expert_is_that_lora_to_the_bit(
    build_llama: Build, two: list[str], granularity: str
) -> None:
    plain, model = build_llama(), build_llama()
    load_adapter(plain, two[1])
    attached = attach(model, Mole(two, granularity=granularity))
    randomize_gates(attached)
    mask_experts(attached, [0, 1])
    assert torch.equal(model(**packed()).logits, plain(**packed()).logits)


@torch.no_grad()
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("granularity", ["matrix", "layer", "block", "network"])
def test_masked_weights_are_the_others_renormalized_which_is_a_softmax_with_minus_infinity(
    build_llama: Build, three: list[str], granularity: str, exact: bool
) -> None:
    model = build_llama()
    attached = attach(model, Mole(three, granularity=granularity, exact=exact))
    randomize_gates(attached)
    name, gate = next((n, g) for n, g in gates_of(model).items() if len(g.widths) == 3)
    seen: list[Tensor] = []
    gate.register_forward_hook(lambda module, args, logits: seen.append(logits))
    model(**packed())
    assert gate.routing is not None
    whole_SK = gate.routing.probs_SK
    assert mask_experts(attached, [1, 0, 1]) is attached
    model(**packed())
    masked_SK = probs_of(gates_of(model)[name].routing)
    expected_SK = whole_SK * torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(masked_SK, expected_SK / expected_SK.sum(-1, keepdim=True))
    infinite_SK = torch.where(torch.tensor([True, False, True]), seen[0], -torch.inf).softmax(-1)
    torch.testing.assert_close(masked_SK, infinite_SK)
    mask_experts(attached, [1, 1, 1])
    model(**packed())
    assert torch.equal(probs_of(gates_of(model)[name].routing), whole_SK)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("granularity", ["matrix", "layer", "block", "network"])
def test_the_balance_loss_leaves_masked_experts_out(
    build_llama: Build, three: list[str], granularity: str, exact: bool
) -> None:
    attached = attach(model := build_llama().double(), Mole(three, granularity=granularity, exact=exact))
    mask_experts(attached, [1, 0, 1])
    model(**packed())
    assert attached.auxiliary_loss().item() < 3 * math.log(3)
    randomize_gates(attached)
    model(**packed())
    loss = attached.auxiliary_loss()
    weighing = [probs_of(one)[:, [0, 2]] for one in attached.routings().values() if probs_of(one)[:, [0, 2]].sum() > 0]
    assert all(not probs_of(one)[:, 1].any() for one in attached.routings().values())
    torch.testing.assert_close(loss, -torch.stack(weighing).mean((0, 1)).log().sum())
    assert attached.balance_totals().shape == (3,)
    loss.backward()
    grads = [parameter.grad for parameter in attached.trainable_parameters().values() if parameter.grad is not None]
    assert grads and all(bool(grad.isfinite().all()) for grad in grads)
    totals = attached.expert_totals(torch.zeros(packed()["input_ids"].shape, dtype=torch.int64), 1)
    assert bool(totals.entropy.isfinite().all()) and not totals.tokens[..., 1].any()
    mask_experts(attached, [1, 1, 1])
    model(**packed())
    every = torch.stack([probs_of(one) for one in attached.routings().values()]).mean((0, 1))
    torch.testing.assert_close(attached.auxiliary_loss(), -every.log().sum())


def test_even_gates_of_two_experts_beside_a_masked_one_have_balance_two_log_two(
    build_llama: Build, tmp_path: Path
) -> None:
    same = [write_lora(build_llama, tmp_path / f"{n}", n, r=2, target_modules=("q_proj", "up_proj")) for n in (1, 2, 3)]
    attached = attach(model := build_llama().double(), Mole(same))
    mask_experts(attached, [1, 1, 0])
    model(**packed())
    assert attached.auxiliary_loss().item() == pytest.approx(2 * math.log(2), abs=1e-9)


def test_a_gate_of_masked_experts_alone_takes_no_part_in_the_balance(build_llama: Build, tmp_path: Path) -> None:
    wide = [write_lora(build_llama, tmp_path / f"{n}", n, r=2, target_modules=("q_proj", "up_proj")) for n in (1, 2)]
    thin = [write_lora(build_llama, tmp_path / f"{n}", n, r=2, target_modules=("q_proj",)) for n in (3, 4)]
    attached = attach(model := build_llama().double(), Mole([*wide, *thin]))
    mask_experts(attached, [0, 0, 1, 1])
    model(**packed())
    assert attached.auxiliary_loss().item() == pytest.approx(2 * math.log(2), abs=1e-9)


@torch.no_grad()
def test_a_masked_expert_that_stands_alone_on_a_linear_is_silent(build_llama: Build, tmp_path: Path) -> None:
    both = [write_lora(build_llama, tmp_path / f"{n}", n, r=2, target_modules=("q_proj",)) for n in (1, 2)]
    wider = write_lora(build_llama, tmp_path / "3", 3, r=2, target_modules=("q_proj", "o_proj"))
    model = build_llama()
    attached = attach(model, Mole([*both, wider]))
    x = torch.randn(1, 5, 32)
    o_proj = model.model.layers[0].self_attn.o_proj
    assert not torch.equal(o_proj(x), o_proj.base(x))
    mask_experts(attached, [1, 1, 0])
    assert torch.equal(o_proj(x), o_proj.base(x))


@torch.no_grad()
def test_dropping_an_expert_for_good_writes_a_smaller_folder_of_equal_logits(
    build_llama: Build, three: list[str], tmp_path: Path
) -> None:
    model = build_llama()
    attached = attach(model, Mole(three, granularity="layer"))
    randomize_gates(attached)
    attached.save(tmp_path / "all")
    smaller = drop_experts(attached, [1, 0, 1])
    smaller.save(tmp_path / "fewer")
    again = build_llama()
    load_adapter(again, tmp_path / "fewer")
    assert torch.equal(again(**packed()).logits, model(**packed()).logits)
    names = json.loads((tmp_path / "fewer" / "adapter_config.json").read_text())
    assert [one["name"] for one in names["experts"]] == ["wide", "third"] and names["mask"] is None
    size = (tmp_path / "fewer" / "adapter_model.safetensors").stat().st_size
    assert size < (tmp_path / "all" / "adapter_model.safetensors").stat().st_size


@torch.no_grad()
def test_even_weights_are_the_mean_of_the_deltas(build_llama: Build, tmp_path: Path) -> None:
    one = {"r": 2, "target_modules": ("model.layers.1.mlp.down_proj",)}
    experts = [write_lora(build_llama, tmp_path / f"{seed}", seed, **one) for seed in (1, 2)]
    outputs = []
    for config in (None, *experts):
        model = build_llama().double()
        if config is not None:
            load_adapter(model, config)
        outputs.append(model.model.layers[1](torch.ones(1, 3, 32).double(), position_embeddings=rotary(model)))
    model = build_llama().double()
    attach(model, Mole(experts))
    model(**packed())
    base, *adapted = outputs
    segments_of(model, 3)
    mixed = model.model.layers[1](torch.ones(1, 3, 32).double(), position_embeddings=rotary(model))
    expected = base + sum(output - base for output in adapted) / 2
    torch.testing.assert_close(mixed, expected, atol=1e-12, rtol=1e-12)


def rotary(model: LlamaForCausalLM) -> tuple[Tensor, Tensor]:
    return model.model.rotary_emb(torch.ones(1, 3, 32).double(), torch.arange(3)[None])


def segments_of(model: torch.nn.Module, length: int) -> None:
    """Let the adapter see a call of ``length`` tokens."""
    gate = next(iter(gates_of(model).values()))
    gate.segments._read(model, (), {"input_ids": torch.zeros(1, length)})


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["layer", "block", "network"])
def test_exact_units_run_once_for_each_expert(build_llama: Build, two: list[str], granularity: str) -> None:
    model = build_llama().double()
    attached = attach(model, Mole(two, granularity=granularity, exact=True))
    unit = {"layer": "model.layers.1.mlp", "block": "model.layers.1", "network": "model"}[granularity]
    randomize_gates(attached)
    seen: dict[str, Any] = {}

    def keep(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.update(args=args, kwargs=kwargs, output=output)

    model.get_submodule(unit).register_forward_hook(keep, with_kwargs=True)
    attached.mark_prompts(labels())
    model(**packed())
    found = gates_of(model)[f"{unit}.expert_gate"].routing
    assert found is not None
    plain = [build_llama().double() for _ in range(3)]
    for other, folder in zip(plain[1:], two, strict=True):
        load_adapter(other, folder)
    base, *alone = [hidden(other.get_submodule(unit)(*seen["args"], **seen["kwargs"])) for other in plain]
    gate = gates_of(model)[f"{unit}.expert_gate"]
    rows = []
    for start, length, prompt, weights in zip((0, 5, 14), LENGTHS, PROMPTS, found.probs_SK, strict=True):
        deltas = [(one - base)[0, start : start + length] for one in alone]
        expected = reference_weights([one[:prompt].mean(0) for one in deltas], gate.weight, gate.log_temperature)
        torch.testing.assert_close(weights, expected, atol=1e-10, rtol=1e-10)
        rows.append(base[0, start : start + length] + sum(w * d for w, d in zip(weights, deltas, strict=True)))
    torch.testing.assert_close(hidden(seen["output"])[0], torch.cat(rows), atol=1e-10, rtol=1e-10)


def hidden(result: Any) -> Tensor:
    if isinstance(result, Tensor):
        return result
    return result[0] if isinstance(result, tuple) else result.last_hidden_state


# --- inside rows, batches and conversations --------------------------------------------------------------------------

FORMS = [("matrix", False), *((name, exact) for name in ("layer", "block", "network") for exact in (False, True))]


@torch.no_grad()
@pytest.mark.parametrize(("granularity", "exact"), FORMS)
def test_packed_left_padded_and_alone_are_one(
    build_llama: Build, three: list[str], granularity: str, exact: bool
) -> None:
    model = build_llama()
    randomize_gates(attach(model, Mole(three, granularity=granularity, exact=exact)))
    row = packed()
    together = model(**row).logits[0].split(LENGTHS)
    ids = row["input_ids"][0].split(LENGTHS)
    padded = torch.stack([F.pad(one, (9 - len(one), 0)) for one in ids])
    mask = torch.stack([torch.arange(9) >= 9 - len(one) for one in ids]).long()
    batch = model(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    for one, mine, left in zip(ids, together, batch, strict=True):
        alone = model(input_ids=one[None], use_cache=False).logits[0]
        torch.testing.assert_close(mine, alone, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(left[-len(one) :], alone, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("granularity", "exact"), FORMS)
def test_decoding_keeps_the_prompts_weights(build_llama: Build, two: list[str], granularity: str, exact: bool) -> None:
    model = build_llama()
    attached = attach(model, Mole(two, granularity=granularity, exact=exact))
    randomize_gates(attached)
    prompt = torch.tensor([[1, 7, 9, 11, 4], [3, 5, 8, 2, 6]])
    model(input_ids=prompt)
    decided = {name: probs_of(one).clone() for name, one in attached.routings().items()}
    output = cast(Any, model).generate(
        input_ids=prompt, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    for name, one in attached.routings().items():
        assert torch.equal(probs_of(one), decided[name])
    attached.mark_prompts(None)
    full = model(input_ids=output.sequences[:, :-1], use_cache=False).logits[:, 4:]
    torch.testing.assert_close(torch.stack(output.logits, 1), full, atol=2e-5, rtol=1e-5)


def test_a_conversation_that_was_not_seen_is_refused(build_llama: Build, two: list[str]) -> None:
    model = build_llama()
    cache = model(input_ids=torch.ones(1, 4, dtype=torch.int64)).past_key_values
    attach(model, Mole(two))
    with pytest.raises(ValueError, match="did not pass through"):
        model(input_ids=torch.ones(1, 1, dtype=torch.int64), past_key_values=cache)


@torch.no_grad()
def test_a_model_that_has_run_can_be_copied(build_llama: Build, two: list[str]) -> None:
    for granularity, exact in FORMS:
        model = build_llama()
        randomize_gates(attach(model, Mole(two, granularity=granularity, exact=exact)))
        before = model(**packed()).logits
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert torch.equal(twin(**packed()).logits, before), (granularity, exact)


# --- files and settings ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("granularity", "exact"), FORMS)
def test_saved_folder_stands_alone(
    build_llama: Build, three: list[str], tmp_path: Path, granularity: str, exact: bool
) -> None:
    model = build_llama()
    attached = attach(model, Mole(three, granularity=granularity, exact=exact))
    randomize_gates(attached)
    expected = model(**packed()).logits
    attached.save(tmp_path / "saved")
    for folder in three:
        Path(folder).rename(Path(folder).with_name("gone-" + Path(folder).name))
    other = build_llama()
    loaded = load_adapter(other, tmp_path / "saved")
    assert torch.equal(other(**packed()).logits, expected)
    assert set(loaded.trainable_parameters()) == set(attached.trainable_parameters())
    assert "layers.0.self_attn.q_proj.experts.narrow.lora_A.weight" in loaded.state_dict()
    loaded.save(tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_experts_are_described_in_the_folder(build_llama: Build, two: list[str], tmp_path: Path) -> None:
    attach(build_llama(), Mole(two)).save(tmp_path / "saved")
    wide, narrow = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["experts"]
    assert (wide["name"], wide["origin"], wide["r"], wide["lora_alpha"]) == ("wide", two[0], 3, 5)
    assert wide["scale"] == pytest.approx(5 / 3) and len(wide["targets"]) == 14
    assert narrow["scale"] == pytest.approx(8 / 5) and len(narrow["targets"]) == 8


def test_a_run_and_a_checkpoint_of_it_are_experts_too(build_llama: Build, two: list[str], tmp_path: Path) -> None:
    run = tmp_path / "my run, 1"
    for step in (5, 10):
        checkpoint = run / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        write_lora(build_llama, checkpoint / "adapter", step, r=2)
        (checkpoint / "COMPLETE").touch()
    (run / "checkpoints" / "last").write_text("step-000010\n")
    for place in (run, run / "checkpoints" / "step-000010", run / "checkpoints" / "step-000010" / "adapter"):
        model = build_llama()
        attached = attach(model, Mole([str(place), *two]))
        assert attached.state_dict().keys() >= {"layers.0.mlp.up_proj.experts.my_run_1.lora_B.weight"}
    (run / "checkpoints" / "step-000010" / "COMPLETE").unlink()
    older = build_llama()
    load_adapter(older, run / "checkpoints" / "step-000005" / "adapter")
    model = build_llama()
    attach(model, Mole([str(run), *two], mask=[1, 0, 0]))
    assert torch.equal(model(**packed()).logits, older(**packed()).logits)


def test_a_runs_pointer_that_cannot_be_read_is_named(build_llama: Build, two: list[str], tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last").write_bytes(b"step-\xff")
    with pytest.raises(UserError, match="last is damaged"):
        attach(build_llama(), Mole([*two, str(tmp_path / "run")]))


def test_folders_of_one_name_become_experts_of_two(build_llama: Build, tmp_path: Path) -> None:
    places = [write_lora(build_llama, tmp_path / where / "lora", seed, r=2) for seed, where in enumerate("ab")]
    tensors = attach(build_llama(), Mole(places)).state_dict()
    assert {"layers.0.mlp.up_proj.experts.lora.lora_A.weight", "layers.0.mlp.up_proj.experts.lora-2.lora_A.weight"} <= (
        tensors.keys()
    )


def test_experts_without_a_common_target_are_refused(build_llama: Build, tmp_path: Path) -> None:
    places = [
        write_lora(build_llama, tmp_path / name, 1, r=2, target_modules=(name,)) for name in ("q_proj", "up_proj")
    ]
    with pytest.raises(UserError, match="shares no target"):
        attach(build_llama(), Mole(places))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": []}, "empty"),
        ({"experts": ["a", 3]}, "experts holds 3"),
        ({"granularity": "row"}, "granularity='row' must be one of matrix, layer, block, network"),
        ({"temperature": 0}, "temperature=0"),
        ({"balance_coef": -1}, "balance_coef=-1"),
        ({"mask": [1]}, "mask"),
        ({"mask": [0, 0]}, "mask"),
        ({"mask": [2, 0]}, "mask"),
        ({"experts": ["a", Expert("b", "", 1, 1, 1, ())]}, "mixes"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mole(**({"experts": ["a", "b"]} | settings))


def test_folders_that_hold_no_lora_are_refused(build_llama: Build, two: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        attach(build_llama(), Mole([*two, str(tmp_path / "nowhere")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no adapter"):
        attach(build_llama(), Mole([*two, str(tmp_path / "empty")]))
    attach(build_llama(), Mole(two)).save(tmp_path / "mole")
    with pytest.raises(UserError, match="not a LoRA"):
        attach(build_llama(), Mole([*two, str(tmp_path / "mole")]))
    settings = json.loads((Path(two[0]) / "adapter_config.json").read_text())
    (Path(two[0]) / "adapter_config.json").write_text(json.dumps(settings | {"r": 4}))
    with pytest.raises(UserError, match="of another shape"):
        attach(build_llama(), Mole(two))


def test_two_experts_of_one_name_are_refused() -> None:
    expert = Expert("doc", "runs/doc", 2, 4, 2.0, ("layers.0.mlp.up_proj",))
    with pytest.raises(UserError, match=r"experts has 'doc' twice"):
        Mole([expert, replace(expert, origin="elsewhere")])


def test_gate_parameters_stay_fp32_in_a_cast_model(build_llama: Build, two: list[str]) -> None:
    model = build_llama()
    attached = attach(model, Mole(two))
    cast(Any, model).to(torch.bfloat16)
    assert {p.dtype for p in attached.trainable_parameters().values()} == {torch.float32}
    randomize_gates(attached)
    model(**packed())
    assert {probs_of(one).dtype for one in attached.routings().values()} == {torch.float32}
    assert {p.dtype for p in attached.parameters()} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("granularity", ["layer", "block"])
def test_checkpointing_changes_no_gradient_of_exact_units(build_llama: Build, two: list[str], granularity: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = build_llama().train()
        attached = attach(model, Mole(two, granularity=granularity, exact=True))
        randomize_gates(attached)
        if checkpointing:
            recompute_activations(model)
        attached.mark_prompts(labels())
        (model(**packed()).logits.square().mean() + attached.auxiliary_loss()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys() and plain
    for name in plain:
        assert torch.equal(plain[name], recomputed[name]), name


def test_frozen_experts_keep_no_input_for_the_backward_pass(build_llama: Build, two: list[str]) -> None:
    def kept(trains: bool) -> int:
        model = build_llama()
        attach(model, Mole(two))
        bank = model.get_submodule("model.layers.1.mlp.down_proj")
        assert isinstance(bank, ExpertBank)
        bank.lora_A.requires_grad_(trains)
        model(**packed())
        x_BTD = torch.randn(1, sum(LENGTHS), 56, requires_grad=True)
        saved: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            bank(x_BTD).sum().backward()
        assert x_BTD.grad is not None
        return saved.count(x_BTD.data_ptr())

    assert kept(trains=False) == 0 and kept(trains=True) == 1


def test_network_as_a_whole_refuses_recomputation(build_llama: Build, two: list[str]) -> None:
    model = build_llama().train()
    attach(model, Mole(two, granularity="network", exact=True))
    recompute_activations(model)
    with pytest.raises(UserError, match="exclude each other"):
        model(**packed())
