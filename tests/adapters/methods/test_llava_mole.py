"""LLaVA-MoLE against a loop over tokens and experts, and the identities that tie its modes together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llava_moe.adapters import Attached, LlavaMole, Lora, attach, load_adapter
from llava_moe.adapters.core.router import ROUTER_MODES, Routing
from llava_moe.errors import UserError

Build = Callable[[], LlamaForCausalLM]


def randomize(attached: Attached, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def routing_of(attached: Attached, name: str) -> Routing:
    routing = attached.routings()[name]
    assert isinstance(routing, Routing)
    return routing


def expert_linear(wide: Any, x_D: Tensor, weights_K: Tensor) -> Tensor:
    y_O = wide.base.weight @ x_D
    rank = wide.width // len(weights_K)
    for k, weight in enumerate(weights_K):
        b_Or = wide.lora_B[:, k * rank : (k + 1) * rank]
        is_shared = wide.lora_A.shape[0] == rank
        a_rD = wide.lora_A if is_shared else wide.lora_A[k * rank : (k + 1) * rank]
        y_O = y_O + wide.scale * weight * (b_Or @ (a_rD @ x_D))
    return y_O


def loop_block(mlp: Any, x_BTD: Tensor, mode: str) -> Tensor:
    """The block a token at a time: one decision from the block's input for all three linears."""
    rows = []
    for x_D in x_BTD.flatten(0, 1):
        p_K = (mlp.router.weight @ x_D + mlp.router.bias).softmax(0)
        j = int(p_K.argmax())
        one_hot_K = F.one_hot(torch.tensor(j), len(p_K)).to(p_K)
        weights_K = {
            "hard": one_hot_K,
            "straight_through": one_hot_K * (1 + p_K[j] - p_K[j].detach()),
            "gate": one_hot_K * p_K[j],
            "dense": p_K,
        }[mode]
        hidden = F.silu(expert_linear(mlp.gate_proj, x_D, weights_K)) * expert_linear(mlp.up_proj, x_D, weights_K)
        rows.append(expert_linear(mlp.down_proj, hidden, weights_K))
    return torch.stack(rows).view_as(x_BTD)


FORMS: dict[str, dict[str, Any]] = {
    "masked": {"dispatch": "masked"},
    "sorted": {"dispatch": "sorted"},
    "shared_A": {"shared_A": True},
}


@pytest.mark.parametrize(
    ("mode", "form"), [(mode, form) for mode in ROUTER_MODES for form in FORMS if (mode, form) != ("dense", "sorted")]
)
@pytest.mark.parametrize(("num_experts", "r", "length"), [(2, 1, 1), (3, 5, 17), (4, 2, 9)])
def test_block_and_all_gradients_equal_the_loop(
    build_llama: Build, mode: str, form: str, num_experts: int, r: int, length: int
) -> None:
    model = build_llama().double()
    config = LlavaMole(num_experts=num_experts, r=r, lora_alpha=3 * r, router=mode, **FORMS[form])
    attached = attach(model, config)
    mlp = model.model.layers[0].mlp
    # fp64 weights make the router compute in fp64; in use they stay fp32.
    mlp.router.weight, mlp.router.bias = (nn.Parameter(p.double()) for p in (mlp.router.weight, mlp.router.bias))
    randomize(attached)
    nn.init.normal_(mlp.router.weight), nn.init.normal_(mlp.router.bias)
    torch.manual_seed(2)
    x = torch.randn(2, length, 32, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    inputs = {"x": x} | {name: p for name, p in mlp.named_parameters() if p.requires_grad}
    ours, reference = mlp(x), loop_block(mlp, x, mode)
    torch.testing.assert_close(ours, reference, atol=1e-12, rtol=1e-12)
    got = torch.autograd.grad(ours, list(inputs.values()), upstream, allow_unused=True)
    expected = torch.autograd.grad(reference, list(inputs.values()), upstream, allow_unused=True)
    for name, mine, theirs in zip(inputs, got, expected, strict=True):
        if mode == "hard" and "router" in name:
            assert mine is None and theirs is None
        else:
            torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def sample() -> dict[str, Any]:
    torch.manual_seed(3)
    positions = torch.cat([torch.arange(7), torch.arange(12), torch.arange(5)])[None]
    return {"input_ids": torch.randint(1, 64, (1, 24)), "position_ids": positions, "use_cache": False}


def logits(build: Build, config: Any, change: Callable[[Any], None] = lambda model: None) -> Tensor:
    model = build()
    randomize(attach(model, config))
    change(model)
    with torch.no_grad():
        return model(**sample()).logits


def scale_routers(factor: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for layer in model.model.layers:
            layer.mlp.router.weight.data *= factor

    return change


def test_straight_through_has_the_forward_pass_of_hard(build_llama: Build) -> None:
    hard = logits(build_llama, LlavaMole(r=4, router="hard"))
    assert torch.equal(logits(build_llama, LlavaMole(r=4, router="straight_through")), hard)
    assert not torch.allclose(logits(build_llama, LlavaMole(r=4, router="gate")), hard)


def test_dense_and_gate_equal_hard_when_the_router_is_certain(build_llama: Build) -> None:
    certain = scale_routers(1e6)
    hard = logits(build_llama, LlavaMole(r=4, router="hard"), certain)
    assert torch.equal(logits(build_llama, LlavaMole(r=4, router="dense"), certain), hard)
    assert torch.equal(logits(build_llama, LlavaMole(r=4, router="gate"), certain), hard)
    assert not torch.allclose(logits(build_llama, LlavaMole(r=4, router="dense")), hard)


@pytest.mark.parametrize("mode", ROUTER_MODES)
def test_who_teaches_the_router(build_llama: Build, mode: str) -> None:
    model = build_llama()
    attached = attach(model, LlavaMole(r=4, router=mode))
    randomize(attached)
    task = model(**sample()).logits.square().mean()
    balance = attached.auxiliary_loss()
    routers = [p for name, p in attached.named_parameters().items() if "router" in name]
    others = [p for name, p in attached.named_parameters().items() if "router" not in name]
    assert len(routers) == 4
    from_task = torch.autograd.grad(task, routers, retain_graph=True, allow_unused=True)
    if mode == "hard":
        # Straight from the task there is nothing; the later layer's input passes no gradient through its choice either.
        assert all(gradient is None for gradient in from_task)
    else:
        assert all(gradient is not None and gradient.any() for gradient in from_task)
    assert all(g.any() for g in torch.autograd.grad(balance, routers, retain_graph=True))
    assert all(g is not None and g.any() for g in torch.autograd.grad(task, others, retain_graph=True))


def test_every_expert_that_was_visited_learns_and_no_other(build_llama: Build) -> None:
    model = build_llama()
    attached = attach(model, LlavaMole(r=4, num_experts=5))
    randomize(attached)
    model(**sample()).logits.square().mean().backward()
    for name in attached.routings():
        visited = set(routing_of(attached, name).chosen_BT.unique().tolist())
        wide: Any = model.get_submodule(f"model.{name}.down_proj")
        learned = {k for k in range(5) if wide.lora_A.grad[4 * k : 4 * k + 4].any()}
        assert learned == visited


@pytest.mark.parametrize("training", [False, True])
def test_one_expert_is_lora_to_the_last_bit(build_llama: Build, training: bool) -> None:
    results = []
    for config in (LlavaMole(num_experts=1, r=4, lora_alpha=8, lora_dropout=0.1), Lora(4, 8, 0.1)):
        model = build_llama().train(training)
        torch.manual_seed(8)
        attached = attach(model, config)
        start = [p.detach().clone() for p in attached.parameters()]
        randomize(attached)
        torch.manual_seed(9)
        output = model(**sample()).logits
        output.square().mean().backward()
        results.append([output.detach(), *start, *(p.grad for p in attached.parameters())])
        assert attached.load_balance_coef == 0.0 and attached.auxiliary_loss() == 0
        assert not attached.is_routed and attached.routings() == {}
    assert len(results[0]) == len(results[1]) == 1 + 2 * 28
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results, strict=True))


def test_balance_loss_of_real_tokens_is_unmoved_by_padding(build_llama: Build) -> None:
    tokens = torch.randint(1, 64, (1, 9), generator=torch.Generator().manual_seed(1))
    model = build_llama()
    attached = attach(model, LlavaMole(r=4))
    randomize(attached)
    mask = torch.ones(1, 9, dtype=torch.long)
    outputs, losses = [], []
    with torch.no_grad():
        for padding in (0, 6):
            ids, real = F.pad(tokens, (0, padding), value=5), F.pad(mask, (0, padding))
            outputs.append(model(input_ids=ids, attention_mask=real).logits[:, :9])
            losses.append(attached.auxiliary_loss())
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)


def test_balance_loss_of_a_packed_row_is_the_mean_over_examples_alone(build_llama: Build) -> None:
    model = build_llama()
    attached = attach(model, LlavaMole(r=4))
    randomize(attached)
    packed = sample()
    losses = []
    with torch.no_grad():
        model(**packed)
        together = attached.auxiliary_loss()
        without_second = attached.auxiliary_loss(torch.tensor([True, False, True]), "sum")
        for ids in packed["input_ids"][0].split([7, 12, 5]):
            model(input_ids=ids[None])
            losses.append(attached.auxiliary_loss())
    torch.testing.assert_close(together, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(without_second, losses[0] + losses[2], atol=1e-5, rtol=1e-5)
    assert 1 <= together <= 3


def test_routings_and_counts_name_the_blocks(build_llama: Build) -> None:
    model = build_llama()
    attached = attach(model, LlavaMole(r=4))
    assert attached.is_routed
    with pytest.raises(ValueError, match="has not run"):
        attached.routings()
    with torch.no_grad():
        model(**sample())
    routings = attached.routings()
    assert list(routings) == ["layers.0.mlp", "layers.1.mlp"]
    routing = routing_of(attached, "layers.1.mlp")
    assert routing.probs_BTK.shape == (1, 24, 3) and routing.probs_BTK.dtype == torch.float32
    assert routing.chosen_BT.shape == (1, 24) and routing.chosen_BT.dtype == torch.int64
    domains = torch.tensor([[0] * 7 + [1] * 12 + [-1] * 5])
    totals = attached.expert_totals(domains, 3)
    assert totals.layer_names == tuple(routings)
    assert totals.tokens.sum(-1).tolist() == [[7, 12, 0], [7, 12, 0]]
    expected = torch.bincount(routing.chosen_BT[0, 7:19], minlength=3)
    assert totals.tokens[1, 1].tolist() == expected.tolist()


def test_router_stays_fp32_in_a_bf16_model(build_llama: Build) -> None:
    model: Any = build_llama()
    model.to(torch.bfloat16)
    attached = attach(model, LlavaMole(r=4))
    dtypes = {name: p.dtype for name, p in attached.named_parameters().items()}
    assert {dtype for name, dtype in dtypes.items() if "router" in name} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if "lora_" in name} == {torch.bfloat16}
    randomize(attached)
    output = model(**sample()).logits
    assert output.dtype == torch.bfloat16
    (output.float().square().mean() + attached.auxiliary_loss()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attached.parameters())
    assert routing_of(attached, "layers.0.mlp").probs_BTK.dtype == torch.float32


def test_decoding_with_a_cache_has_a_balance_loss_too(build_llama: Build) -> None:
    model: Any = build_llama()
    attached = attach(model, LlavaMole(r=4))
    model.generate(torch.ones(2, 4, dtype=torch.long), max_new_tokens=3, do_sample=False)
    assert routing_of(attached, "layers.0.mlp").chosen_BT.shape == (2, 1)
    assert attached.auxiliary_loss().isfinite()


def test_coefficient_is_a_hundredth_unless_there_is_one_expert(build_llama: Build) -> None:
    assert LlavaMole().load_balance_coef == 0.01
    assert LlavaMole(num_experts=1).load_balance_coef == 0.0
    assert LlavaMole(num_experts=1, load_balance_coef=0.0).load_balance_coef == 0.0
    assert attach(build_llama(), LlavaMole(r=2, load_balance_coef=0.05)).load_balance_coef == 0.05
    with pytest.raises(UserError, match="one expert"):
        LlavaMole(num_experts=1, load_balance_coef=0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_experts", 0),
        ("r", 0),
        ("lora_alpha", 0),
        ("lora_dropout", 1.0),
        ("router", "soft"),
        ("load_balance", "global"),
        ("load_balance_coef", -0.1),
    ],
)
def test_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        LlavaMole(**{field: value})


def test_experts_can_be_given_to_some_linears_only(build_llama: Build) -> None:
    model = build_llama()
    attached = attach(model, LlavaMole(r=4, target_modules=["q_proj", "down_proj"], expert_modules=["down_proj"]))
    assert {
        name.split(".")[-3] for name in attached.state_dict() if "experts" not in name and "router" not in name
    } == {"q_proj"}
    assert {name.split(".")[3] for name in attached.state_dict() if "experts" in name} == {"down_proj"}
    with pytest.raises(UserError, match="expert_modules"):
        attach(build_llama(), LlavaMole(r=4, target_modules=["q_proj"], expert_modules=["down_proj"]))


def test_tokens_are_sorted_where_the_bank_is_wide_and_one_expert_is_chosen(build_llama: Build) -> None:
    def sorts(**settings: Any) -> list[bool]:
        model = build_llama()
        attach(model, LlavaMole(**settings))
        return [layer.mlp.router.is_sorted for layer in model.model.layers]

    assert sorts(num_experts=5, r=51) == [False, False]
    assert sorts(num_experts=4, r=64) == [True, True]
    assert sorts(num_experts=(4, 2), r=64) == [True, False]
    assert sorts(num_experts=4, r=64, router="dense") == [False, False]
    assert sorts(num_experts=4, r=64, shared_A=True) == [False, False]
    assert sorts(num_experts=4, r=64, dispatch="masked") == [False, False]
    assert sorts(num_experts=2, r=1, dispatch="sorted") == [True, True]


@pytest.mark.parametrize(("num_experts", "r"), [(5, 51), (4, 64)])
def test_on_both_sides_of_the_width_from_which_tokens_are_sorted_the_results_are_equal(
    build_llama: Build, num_experts: int, r: int
) -> None:
    def found(dispatch: str) -> dict[str, Tensor]:
        model = build_llama().double().train()
        attached = attach(model, LlavaMole(num_experts=num_experts, r=r, dispatch=dispatch))
        randomize(attached)
        loss = model(**sample()).logits.square().mean() + attached.auxiliary_loss()
        loss.backward()
        return {"loss": loss} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    auto, other = found("auto"), found("masked" if num_experts * r >= 256 else "sorted")
    assert auto.keys() == other.keys() and len(auto) > 10
    for name, tensor in auto.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-12, rtol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("settings", [{"router": "dense"}, {"shared_A": True}])
def test_sorting_is_refused_where_a_token_does_not_visit_one_expert(settings: Any) -> None:
    with pytest.raises(UserError, match=r"dispatch=sorted needs"):
        LlavaMole(dispatch="sorted", **settings)


def test_experts_of_a_linear_can_share_one_a(build_llama: Build) -> None:
    attached = attach(build_llama(), LlavaMole(num_experts=3, r=4, shared_A=True))
    shapes = {name: tuple(tensor.shape) for name, tensor in attached.state_dict().items() if "layers.0.mlp.up" in name}
    up = "layers.0.mlp.up_proj"
    assert shapes == {f"{up}.shared.lora_A.weight": (4, 32)} | {
        f"{up}.experts.{k}.lora_B.weight": (56, 4) for k in range(3)
    }


def test_layers_can_have_their_own_number_of_experts(build_llama: Build, tmp_path: Path) -> None:
    model = build_llama()
    attached = attach(model, LlavaMole(num_experts=(2, 4), r=3))
    randomize(attached)
    logits = model(**sample()).logits
    assert [routing_of(attached, name).probs_BTK.shape[-1] for name in attached.routings()] == [2, 4]
    totals = attached.expert_totals(torch.zeros(1, 24, dtype=torch.long), 1)
    assert totals.num_experts == (2, 4) and totals.tokens.shape == (2, 1, 4)
    assert totals.tokens.sum(-1).flatten().tolist() == [24, 24] and not totals.tokens[0, :, 2:].any()
    assert float(attached.auxiliary_loss()) > 0
    attached.save(tmp_path)
    again = build_llama()
    config = load_adapter(again, tmp_path).config
    assert isinstance(config, LlavaMole) and config.num_experts == (2, 4)
    assert torch.equal(again(**sample()).logits, logits)


def test_layers_left_out_get_plain_lora_and_no_router(build_llama: Build) -> None:
    attached = attach(build_llama(), LlavaMole(num_experts=3, r=4, expert_layers=[1]))
    names = list(attached.state_dict())
    assert "layers.0.mlp.up_proj.lora_A.weight" in names and "layers.1.mlp.up_proj.experts.2.lora_A.weight" in names
    assert [name for name in names if "router" in name] == ["layers.1.mlp.router.weight", "layers.1.mlp.router.bias"]
    one = attach(build_llama(), LlavaMole(num_experts=(1, 3), r=4))
    assert [name for name in one.state_dict() if "router" in name] == [name for name in names if "router" in name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": (2, 2, 2)}, r"num_experts=\[2,2,2\] lists 3 layers, the model has 2: give one number for all"),
        ({"expert_layers": [2]}, "layers from 0 to 1"),
        ({"expert_layers": []}, "layers from 0 to 1"),
        ({"num_experts": (2, 3), "load_balance": "pooled"}, "use per_layer"),
    ],
)
def test_layers_that_do_not_fit_are_refused(build_llama: Build, settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attach(build_llama(), LlavaMole(**({"r": 2} | settings)))


def test_a_balance_loss_without_gradient_is_told_of(build_llama: Build) -> None:
    model = build_llama().train()
    attached = attach(model, LlavaMole(r=2))
    with torch.no_grad():
        model(**sample())
        attached.auxiliary_loss()
    with pytest.warns(UserWarning, match="use_reentrant=False"):
        attached.auxiliary_loss()
