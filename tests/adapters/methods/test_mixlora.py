"""Conditional MixLoRA against a loop over examples and pairs, its identities, and what decides its choice."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from llava_moe.adapters import Attached, Lora, MixLora, attach, load_adapter
from llava_moe.adapters.core.router import ExampleRouting
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.wide_linear import CORES, WideLinear
from llava_moe.adapters.methods.mixlora_gate import FactorGate, conditional_probs, strongest
from llava_moe.errors import UserError
from llava_moe.model import recompute_activations

Build = Callable[[], LlamaForCausalLM]
BuildLlava = Callable[[], LlavaForConditionalGeneration]
EXACT = {"atol": 1e-12, "rtol": 1e-12}


class Listener(nn.Module):
    def forward(self, **call: Any) -> None:
        return None


# Calls of a language model with 2 rows of 9 tokens, and the (row, tokens, prompt tokens) of each example in them.
LAYOUTS: dict[str, tuple[dict[str, Tensor], list[tuple[int, slice, slice]]]] = {
    "packed": (
        {
            "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4, 5, 0, 1]]),
            "labels": torch.tensor(
                [[-100, -100, 7, 7, -100, 7, -100, -100, 7], [-100, -100, -100, -100, 7, 7, 7, -100, -100]]
            ),
        },
        [
            (0, slice(0, 4), slice(0, 2)),
            (0, slice(4, 9), slice(4, 5)),
            (1, slice(0, 1), slice(0, 1)),
            (1, slice(1, 7), slice(1, 4)),
            (1, slice(7, 9), slice(7, 9)),
        ],
    ),
    "left padded": (
        {"attention_mask": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9])},
        [(0, slice(3, 9), slice(3, 9)), (1, slice(0, 9), slice(0, 9))],
    ),
}


def call(segments: Segments, **how: Tensor) -> None:
    segments.mark_prompts(how.pop("labels", None))
    listener = Listener().eval()
    segments.watch(listener)
    listener(inputs_embeds=torch.zeros(2, 9, 1), **how)


def build_wide(
    features_in: int, features_out: int, num_factors: int, r: int, conditional: bool = True, **gate: Any
) -> tuple[WideLinear, Segments]:
    """A bank in fp64, its routers too; in use they stay fp32."""
    torch.manual_seed(0)
    segments = Segments()
    base = nn.Linear(features_in, features_out, dtype=torch.float64).requires_grad_(False)
    factors = FactorGate(segments, num_factors, r, features_in, features_in, conditional, **gate)
    for name, parameter in list(factors.named_parameters()):
        start = torch.randn(parameter.shape, dtype=torch.float64)
        setattr(factors, name, nn.Parameter(start, requires_grad=parameter.requires_grad))
    wide = WideLinear(base, {f"factors.{e}": 1 for e in range(num_factors)}, 1.75, factors)
    nn.init.normal_(wide.lora_A), nn.init.normal_(wide.lora_B)
    return wide, segments


def top(scores_E: Tensor, r: int) -> list[int]:
    return sorted(range(len(scores_E)), key=lambda e: (-scores_E[e].item(), e))[:r]


def choose(wide: Any, h_D: Tensor) -> tuple[list[int], list[int], Tensor, Tensor]:
    gate = wide.gate
    p_A = (gate.ifs_A @ h_D).softmax(0)
    reads = top(p_A, gate.r)
    p_B = (gate.ifs_B @ h_D).softmax(0)
    if gate.conditional:
        summed = sum((gate.cfs[k] @ wide.lora_A[j]).softmax(0) for k, j in enumerate(reads))
        p_B = p_B + torch.as_tensor(summed).softmax(0)
    return reads, top(p_B, gate.r), p_A, p_B


def update(wide: Any, h_D: Tensor, x_D: Tensor) -> Tensor:
    """s * sum_i w_i b_{K_i} (a_{J_i} . x), a pair at a time."""
    reads, writes, p_A, p_B = choose(wide, h_D)
    delta = torch.zeros_like(wide.lora_B[:, 0])
    for j, k in zip(reads, writes, strict=True):
        weight = (1 + (p_A[j] - p_A[j].detach())) * (1 + (p_B[k] - p_B[k].detach())) if wide.gate.learns else 1
        delta = delta + wide.scale * weight * wide.lora_B[:, k] * (wide.lora_A[j] @ x_D)
    return delta


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("sizes", [(7, 5, 3, 2), (3, 11, 5, 5), (13, 1, 4, 1)], ids=str)
def test_forward_and_all_gradients_equal_the_loop(
    sizes: tuple[int, int, int, int], conditional: bool, learns: bool, layout: str, core: str
) -> None:
    wide, segments = build_wide(*sizes, conditional, learns=learns)
    wide.core = core
    how, examples = LAYOUTS[layout]
    call(segments, **how)
    x = torch.randn(2, 9, sizes[0], dtype=torch.float64, requires_grad=True)
    ours, rows = wide(x), []
    for row, tokens, prompt in examples:
        h_D = x[row, prompt].mean(0)
        rows.append(torch.stack([wide.base(x_D) + update(wide, h_D, x_D) for x_D in x[row, tokens]]))
    reference = torch.cat(rows)
    ours = torch.cat([ours[row, tokens] for row, tokens, _ in examples])
    torch.testing.assert_close(ours, reference, **EXACT)
    inputs = {"x": x} | {name: p for name, p in wide.named_parameters() if p.requires_grad}
    assert learns == any("gate" in name for name in inputs)
    upstream = torch.randn_like(ours)
    got = torch.autograd.grad(ours, list(inputs.values()), upstream)
    expected = torch.autograd.grad(reference, list(inputs.values()), upstream)
    for name, mine, theirs in zip(inputs, got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


def test_the_conditional_term_by_hand() -> None:
    """Two rows of A are chosen, [1, 0] first; logits are ln of whole numbers, so the softmaxes are plain fractions."""
    lora_A = torch.tensor([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    ln = [[math.log(value) for value in row] for row in ([1, 2, 1], [4, 1, 5], [1, 1, 2], [3, 3, 2])]
    # W_AB[k] takes a row of A [2] to logits over the 3 columns of B; stored as a linear's weight, [3, 2].
    cfs = torch.tensor([[ln[0], ln[1]], [ln[2], ln[3]]], dtype=torch.float64).transpose(1, 2)
    # A[1] W_AB[0] = ln [1, 2, 1] -> [1, 2, 1] / 4; A[0] W_AB[1] = ln [3, 3, 2] -> [3, 3, 2] / 8; sum = [5, 7, 4] / 8.
    found = conditional_probs(lora_A, cfs, torch.tensor([[1, 0]]))
    e = [math.exp(5 / 8), math.exp(7 / 8), math.exp(4 / 8)]
    torch.testing.assert_close(found, torch.tensor([[value / sum(e) for value in e]], dtype=torch.float64), **EXACT)
    # The other order is another choice: A[0] W_AB[0] -> [4, 1, 5] / 10, A[1] W_AB[1] -> [1, 1, 2] / 4.
    other = conditional_probs(lora_A, cfs, torch.tensor([[0, 1]]))
    e = [math.exp(value) for value in (0.65, 0.35, 1.0)]
    torch.testing.assert_close(other, torch.tensor([[value / sum(e) for value in e]], dtype=torch.float64), **EXACT)


def test_the_pairing_by_hand() -> None:
    """h = [1, 0]: A's factors rank 2, 0 and B's 1, 2, so reading 2 is written to 1 and reading 0 to 2."""
    wide, segments = build_wide(2, 3, 3, 2, conditional=False)
    gate: Any = wide.gate
    with torch.no_grad():
        wide.base.weight.zero_(), wide.base.bias.zero_()
        gate.ifs_A.copy_(torch.tensor([[2.0, 9.0], [1.0, 9.0], [3.0, -9.0]]))
        gate.ifs_B.copy_(torch.tensor([[0.0, 9.0], [2.0, 0.0], [1.0, 0.0]]))
        wide.lora_A.copy_(torch.tensor([[10.0, 0.0], [0.0, 1.0], [7.0, 1.0]]))
        wide.lora_B.copy_(torch.diag(torch.tensor([1.0, 2.0, 4.0])))
    call(segments, position_ids=torch.arange(9)[None].expand(2, 9))
    x = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(2, 9, 2)
    assert wide(x)[1, 4].tolist() == [0.0, 1.75 * 2 * 7, 1.75 * 4 * 10]
    routings = gate.routings()
    assert routings["A"].chosen_SC.tolist() == [[2, 0]] * 2 and routings["B"].chosen_SC.tolist() == [[1, 2]] * 2


def test_ties_go_to_the_lower_index() -> None:
    assert strongest(torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0]]), 4).tolist() == [[1, 2, 4, 0]]
    assert strongest(torch.zeros(1, 40), 3).tolist() == [[0, 1, 2]]


# --- in a model -------------------------------------------------------------------------------------------------------


def randomize(attached: Attached) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def adapted(build: Build, **settings: Any) -> tuple[Any, Attached]:
    model = build()
    attached = attach(model, MixLora(**settings))
    randomize(attached)
    return model, attached


def sample() -> dict[str, Any]:
    torch.manual_seed(3)
    positions = torch.cat([torch.arange(7), torch.arange(12), torch.arange(5)])[None]
    return {"input_ids": torch.randint(1, 60, (1, 24)), "position_ids": positions, "use_cache": False}


def gates_of(model: nn.Module) -> Iterator[tuple[str, FactorGate]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, FactorGate))


def routings_of(attached: Attached) -> dict[str, ExampleRouting]:
    found = {}
    for name, routing in attached.routings().items():
        assert isinstance(routing, ExampleRouting)
        found[name] = routing
    return found


def choice_of(routing: ExampleRouting) -> Tensor:
    assert routing.chosen_SC is not None
    return routing.chosen_SC


def chosen(attached: Attached) -> dict[str, Any]:
    return {name: choice_of(routing).tolist() for name, routing in routings_of(attached).items()}


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"conditional": False}, {"routing": "task"}, {"router_grad": "none"}], ids=str
)
def test_gates_of_one_input_decide_together_as_each_does_alone(
    build_llama: Build, settings: dict[str, Any], is_recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[int] = []
    choose = FactorGate._choose_from

    def noted(gate: FactorGate, h_UH: Tensor, gates: Any) -> Any:
        decided.append(len(gates))
        return choose(gate, h_UH, gates)

    monkeypatch.setattr(FactorGate, "_choose_from", noted)

    def found(core: str) -> dict[str, Tensor]:
        model: Any = build_llama().double().train()
        attached = attach(model, MixLora(num_factors=5, r=2, **settings), core)
        randomize(attached)
        if is_recomputed:
            recompute_activations(model)
        attached.mark_prompts(torch.where(sample()["position_ids"] < 4, -100, 1))
        loss = model(**sample()).logits.square().mean()
        routings = routings_of(attached)
        loss.backward()
        values = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        values |= {name: one.probs_SK for name, one in routings.items()}
        return values | {f"{name} chosen": choice_of(one) for name, one in routings.items()} | {"loss": loss}

    together = found("lean")
    # q, k and v; o; gate and up; down; of two layers.
    assert decided[:8] == [3, 1, 2, 1] * 2
    decided.clear()
    alone = found("autograd")
    assert set(decided) == {1} and together.keys() == alone.keys() and len(alone) > 50
    for name, tensor in alone.items():
        torch.testing.assert_close(
            together[name], tensor, atol=1e-12, rtol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("num_factors", [1, 4])
def test_all_factors_paired_with_themselves_are_lora(build_llama: Build, num_factors: int) -> None:
    """Routers that rank A and B alike pair factor e with factor e: with E = r that is LoRA of rank r."""
    model, attached = adapted(build_llama, num_factors=num_factors, r=num_factors, lora_alpha=3, conditional=False)
    for _, gate in gates_of(model):
        gate.ifs_B.data.copy_(gate.ifs_A.data)
    plain = build_llama()
    lora = attach(plain, Lora(r=num_factors, lora_alpha=3))
    mine, theirs = attached.named_parameters(), lora.named_parameters()
    for name, parameter in theirs.items():
        parameter.data.copy_(mine[name].data)
    with torch.no_grad():
        torch.testing.assert_close(model(**sample()).logits, plain(**sample()).logits, atol=1e-6, rtol=1e-5)
        if num_factors > 1:
            for _, gate in gates_of(model):
                gate.ifs_B.data.neg_()
            assert not torch.allclose(model(**sample()).logits, plain(**sample()).logits, atol=1e-3)


def test_one_factor_of_one_is_lora_whatever_the_routers_say(build_llama: Build) -> None:
    model, attached = adapted(build_llama, num_factors=1, r=1, conditional=True)
    plain = build_llama()
    lora = attach(plain, Lora(r=1, lora_alpha=2))
    mine = attached.named_parameters()
    for name, parameter in lora.named_parameters().items():
        parameter.data.copy_(mine[name].data)
    with torch.no_grad():
        assert torch.equal(model(**sample()).logits, plain(**sample()).logits)


def test_straight_through_has_the_forward_pass_of_none(build_llama: Build) -> None:
    outputs = []
    for router_grad in ("straight_through", "none"):
        model, attached = adapted(build_llama, router_grad=router_grad)
        output = model(**sample()).logits
        output.square().mean().backward()
        outputs.append(output.detach())
        routers = {name for name in attached.named_parameters() if ".gate." in name}
        silent = {name for name, p in attached.named_parameters().items() if p.grad is None or not p.grad.any()}
        assert len(routers) == 2 * 7 * 3
        assert silent == (routers if router_grad == "none" else set())
        assert silent == attached.named_parameters().keys() - attached.trainable_parameters().keys()
    assert torch.equal(*outputs)


def test_the_answer_does_not_change_the_choice(build_llama: Build) -> None:
    model, attached = adapted(build_llama)
    row = sample()
    labels = torch.where(row["position_ids"] < 3, -100, row["input_ids"])

    def choices(input_ids: Tensor) -> dict[str, Any]:
        attached.mark_prompts(labels)
        model(**(row | {"input_ids": input_ids}))
        return chosen(attached)

    before = choices(row["input_ids"])
    assert choices(torch.where(labels < 0, row["input_ids"], 61)) == before
    assert choices(torch.where(labels < 0, 61, row["input_ids"])) != before
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choices(torch.where(labels < 0, row["input_ids"], 62)) == before
    with pytest.warns(UserWarning, match="without labels"):
        model(**row)


def test_examples_of_a_row_are_routed_apart(build_llama: Build) -> None:
    model, attached = adapted(build_llama)
    model(**sample())
    assert any(len({tuple(choice) for choice in choices}) > 1 for choices in chosen(attached).values())


@torch.no_grad()
def test_the_choice_of_a_prompt_is_kept_while_it_is_answered(build_llama: Build) -> None:
    model, attached = adapted(build_llama)
    prompts = torch.randint(1, 60, (3, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6, [0, 1, 1, 1, 1, 1]])
    model(input_ids=prompts, attention_mask=mask)
    of_prompts = chosen(attached)
    model.generate(input_ids=prompts, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert chosen(attached) == of_prompts
    assert all(routing.segments_BT.tolist() == [[0], [1], [2]] for routing in routings_of(attached).values())
    model(input_ids=prompts.flip(0), attention_mask=mask)
    assert chosen(attached) != of_prompts


@torch.no_grad()
def test_beams_follow_the_choice_of_their_prompt(build_llama: Build) -> None:
    model, attached = adapted(build_llama)
    prompts = torch.randint(1, 60, (2, 6))
    model(input_ids=prompts)
    of_prompts = chosen(attached)
    beams = model.generate(input_ids=prompts, max_new_tokens=5, num_beams=3, do_sample=False)
    assert chosen(attached) == {name: [rows[0]] * 3 + [rows[1]] * 3 for name, rows in of_prompts.items()}
    alone = [
        model.generate(input_ids=prompts[i : i + 1], max_new_tokens=5, num_beams=3, do_sample=False) for i in (0, 1)
    ]
    assert torch.equal(beams, torch.cat(alone))


@torch.no_grad()
def test_going_on_with_other_rows_than_were_prompted_is_refused(build_llama: Build) -> None:
    model, _ = adapted(build_llama)
    ids = torch.randint(1, 60, (2, 6))
    cache = model(input_ids=ids, use_cache=True).past_key_values
    model(input_ids=ids[:1])
    with pytest.raises(ValueError, match="1 prompts were routed, the call goes on with 2 rows"):
        model(input_ids=ids[:, :1], past_key_values=cache)
    bare = build_llama()
    cache = bare(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="did not pass through this adapter"):
        attach(bare, MixLora()), bare(input_ids=ids[:, :1], past_key_values=cache)


def test_a_linear_can_be_run_again_on_one_input() -> None:
    wide, segments = build_wide(7, 5, 4, 2)
    call(segments, **LAYOUTS["packed"][0])
    x = torch.randn(2, 9, 7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        wide(x)
    first = torch.autograd.grad(wide(x).square().sum(), x)
    assert torch.equal(first[0], torch.autograd.grad(wide(x).square().sum(), x)[0])


def test_a_copy_begins_without_the_conversation(build_llama: Build) -> None:
    model, _ = adapted(build_llama)
    model(**sample())
    copied = copy.deepcopy(model)
    assert all(gate.kept is None and not gate.routings() for _, gate in gates_of(copied))
    assert torch.equal(copied(**sample()).logits, model(**sample()).logits)
    others = {id(gate.segments) for _, gate in gates_of(copied)}
    assert len(others) == 1 and others != {id(gate.segments) for _, gate in gates_of(model)}


# --- start, scale, types, files ---------------------------------------------------------------------------------------


def test_start_and_scale(build_llama: Build) -> None:
    model = build_llama()
    attached = attach(model, MixLora(num_factors=16, r=4))
    assert {wide.scale for wide in model.modules() if isinstance(wide, WideLinear)} == {2.0}
    for name, parameter in attached.named_parameters().items():
        features_in = 56 if "down_proj" in name else 32
        if name.endswith("lora_B"):
            assert not parameter.any()
            continue
        # Kaiming-uniform with a = sqrt(5), as nn.Linear: U(+-1 / sqrt(fan_in)).
        bound = 1 / math.sqrt(features_in * (4 if name.endswith("cfs") else 1))
        assert 0.8 * bound < float(parameter.abs().max()) <= bound, name
        assert float(parameter.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15), name
    assert MixLora(num_factors=16, r=4).lora_alpha == 8
    assert MixLora(num_factors=16, r=4, as_released=True).lora_alpha == 32
    assert MixLora(num_factors=16, r=4, lora_alpha=5).lora_alpha == 5


def test_routers_stay_fp32_and_choose_alike_in_bf16(build_llama: Build) -> None:
    model, attached = adapted(build_llama)
    model.bfloat16()
    for name, parameter in attached.named_parameters().items():
        assert parameter.dtype == (torch.float32 if ".gate." in name else torch.bfloat16), name
    name, wide = next((n, m) for n, m in model.named_modules() if isinstance(m, WideLinear))
    x = torch.randn(1, 24, 32, dtype=torch.bfloat16)
    model(**sample())
    gate: Any = wide.gate
    low = wide(x)
    probs, choice = gate.routings()["A"].probs_SK, gate.routings()["A"].chosen_SC
    assert low.dtype == torch.bfloat16 and probs.dtype == torch.float32
    examples = [x[0, :7], x[0, 7:19], x[0, 19:]]
    expected = torch.stack([(gate.ifs_A @ tokens.float().mean(0)).softmax(0) for tokens in examples])
    torch.testing.assert_close(probs, expected.detach(), atol=1e-6, rtol=1e-5)
    wide.float()
    high = wide(x.float())
    assert torch.equal(gate.routings()["A"].chosen_SC, choice)
    torch.testing.assert_close(low.float(), high, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_cores_give_equal_gradients(build_llama: Build, dtype: torch.dtype) -> None:
    found = []
    for core in CORES:
        model: Any = build_llama()
        model.to(dtype)
        attached = attach(model, MixLora(num_factors=6, r=3), core)
        randomize(attached)
        model(**sample()).logits.float().square().mean().backward()
        found.append({name: p.grad for name, p in attached.named_parameters().items()})
    close = {"atol": 1e-6, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.1}
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=lambda m, name=name: f"{name}: {m}", **close)


@pytest.mark.parametrize("routing", ["instance", "task", "token", "random"])
def test_recomputation_chooses_alike(build_llama: Build, routing: str) -> None:
    found: list[dict[str, Any]] = []
    for checkpointing in (False, True):
        model, attached = adapted(build_llama, routing=routing)
        model.train()
        if checkpointing:
            recompute_activations(model)
        torch.manual_seed(5)
        attached.mark_prompts(torch.where(sample()["position_ids"] < 3, -100, 1))
        model(**sample()).logits.square().mean().backward()
        found.append({name: p.grad for name, p in attached.named_parameters().items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_files_name_each_factor(build_llama: Build, tmp_path: Path) -> None:
    model, attached = adapted(build_llama, num_factors=3, r=2, target_modules=["q_proj", "down_proj"])
    attached.save(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    names = [name for name in tensors if "1.mlp" in name]
    own = {name.removeprefix("layers.1.mlp.down_proj."): tuple(tensors[name].shape) for name in names}
    assert own == {
        **{f"factors.{e}.lora_A.weight": (1, 56) for e in range(3)},
        **{f"factors.{e}.lora_B.weight": (32, 1) for e in range(3)},
        **{"gate.ifs_A": (3, 56), "gate.ifs_B": (3, 56), "gate.cfs": (2, 3, 56)},
    }
    other = build_llama()
    loaded = load_adapter(other, tmp_path)
    assert loaded.config == attached.config
    assert torch.equal(other(**sample()).logits, model(**sample()).logits)


def test_totals_count_every_token_once(build_llama: Build) -> None:
    model, attached = adapted(build_llama)
    model(**sample())
    domains = torch.tensor([[0] * 7 + [1] * 12 + [-1] * 5])
    totals = attached.expert_totals(domains, 2)
    assert totals.layer_names == ("layers.0", "layers.1") and totals.num_experts == (16, 16)
    torch.testing.assert_close(totals.tokens.sum(-1), torch.tensor([[7.0, 12.0]] * 2, dtype=torch.float64))
    assert bool((totals.entropy > 0).all())


# --- the other strategies of the paper's Table 2 ----------------------------------------------------------------------


def test_a_token_that_chooses_for_itself_equals_the_loop(build_llama: Build) -> None:
    wide, segments = build_wide(7, 5, 6, 3, routing="token")
    call(segments, **LAYOUTS["packed"][0])
    x = torch.randn(2, 9, 7, dtype=torch.float64, requires_grad=True)
    ours = wide(x).flatten(0, 1)
    reference = torch.stack([wide.base(x_D) + update(wide, x_D, x_D) for x_D in x.flatten(0, 1)])
    torch.testing.assert_close(ours, reference, **EXACT)
    inputs = [x, *(p for p in wide.parameters() if p.requires_grad)]
    upstream = torch.randn_like(ours)
    got, expected = (torch.autograd.grad(y, inputs, upstream) for y in (ours, reference))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-11)
    model, attached = adapted(build_llama, routing="token")
    model(**sample())
    assert all(choice_of(routing).shape == (24, 4) for routing in routings_of(attached).values())
    totals = attached.expert_totals(torch.zeros(1, 24, dtype=torch.long), 1)
    torch.testing.assert_close(totals.tokens.sum(-1), torch.full((2, 1), 24.0, dtype=torch.float64))


def look_and_ask(model: Any, words: Tensor, seed: int, **how: Any) -> None:
    ids = torch.cat([torch.tensor([1]), torch.full((4,), 60), words])[None]
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    model(input_ids=ids, pixel_values=pixels, **how)


def test_a_task_is_known_by_its_words_alone(build_llava: BuildLlava) -> None:
    model = build_llava()
    attached = attach(model, MixLora(routing="task"))
    randomize(attached)
    words = torch.tensor([5, 9, 31, 40])
    look_and_ask(model, words, seed=1)
    first = chosen(attached)
    look_and_ask(model, words, seed=2)
    assert chosen(attached) == first
    look_and_ask(model, torch.tensor([5, 9, 31, 41]), seed=1)
    assert chosen(attached) != first
    embed = model.get_input_embeddings()
    gate: Any = model.model.language_model.layers[1].mlp.down_proj.gate
    expected = (gate.ifs_A @ embed(torch.tensor([1, 5, 9, 31, 41])).mean(0)).softmax(0)
    torch.testing.assert_close(gate.routings()["A"].probs_SK[0], expected.detach())
    answer = torch.tensor([50, 51])
    labels = torch.tensor([[-100] * 9 + [50, 51]])
    look_and_ask(model, torch.cat([words, answer]), seed=3, labels=labels)
    assert chosen(attached) == first


def test_a_task_teaches_its_routers_and_is_kept_while_answering(build_llama: Build) -> None:
    model, attached = adapted(build_llama, routing="task")
    model(**sample()).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in attached.parameters())
    prompts = torch.randint(1, 60, (2, 5))
    with torch.no_grad():
        model(input_ids=prompts)
        of_prompts = chosen(attached)
        model.generate(input_ids=prompts, max_new_tokens=4, do_sample=False)
    assert chosen(attached) == of_prompts


def test_random_factors_are_drawn_at_every_call_without_routers(build_llama: Build) -> None:
    model, attached = adapted(build_llama, routing="random", r=3, num_factors=5)
    assert not any(".gate." in name for name in attached.named_parameters())
    row = sample()
    model(**row)
    first = chosen(attached)
    model(**row)
    assert chosen(attached) != first
    assert all(len(set(choice)) == 3 for choices in first.values() for choice in choices)
    counts = torch.zeros(5)
    for _ in range(150):
        model(**row)
        for choices in chosen(attached).values():
            counts += F.one_hot(torch.tensor(choices), 5).sum((0, 1))
    assert bool(((counts / counts.sum() - 0.2).abs() < 0.01).all()), counts


# --- as released ------------------------------------------------------------------------------------------------------


def released(wide: Any, x_BTD: Tensor) -> Tensor:
    """The published forward pass: cmoa_lora.py ``Linear.forward``, selector.py ``CMoALoRA2B_Selector``; dropout 0."""
    gate, r = wide.gate, wide.gate.r
    h_BD = x_BTD.mean(dim=1)
    index_A = torch.topk(F.linear(h_BD, gate.ifs_A), r, dim=-1).indices
    lora_A_BRD = wide.lora_A[index_A]
    scores = F.linear(h_BD, gate.ifs_B)
    if gate.conditional:
        weight_E_RD = gate.cfs.transpose(0, 1).flatten(1)  # the released tensor
        weight_RDE = weight_E_RD.unflatten(1, (r, -1)).permute(1, 2, 0)
        extra = torch.einsum("brd,rfe->bre", lora_A_BRD, weight_RDE)
        scores = F.softmax(scores, -1) + F.softmax(F.softmax(extra, dim=-1).sum(dim=1), -1)
    index_B = torch.topk(scores, r, dim=-1).indices
    lora_B_BRO = wide.lora_B.t()[index_B]
    scaling = 2 * gate.num_factors / r
    return wide.base(x_BTD) + torch.matmul(x_BTD, torch.matmul(lora_A_BRD.transpose(1, 2), lora_B_BRO)) * scaling


def released_linear(build_llama: Build, conditional: bool = True) -> Any:
    model = build_llama().double()
    attached = attach(model, MixLora(num_factors=6, r=3, conditional=conditional, as_released=True))
    randomize(attached)
    wide: Any = model.model.layers[0].mlp.up_proj
    for name, parameter in list(wide.gate.named_parameters()):
        setattr(wide.gate, name, nn.Parameter(parameter.double(), requires_grad=False))
    return wide


@pytest.mark.parametrize("conditional", [True, False])
def test_as_released_is_the_published_formula(build_llama: Build, conditional: bool) -> None:
    wide = released_linear(build_llama, conditional)
    torch.manual_seed(1)
    x = torch.randn(5, 11, 32, dtype=torch.float64, requires_grad=True)
    ours, reference = wide(x), released(wide, x)
    torch.testing.assert_close(ours, reference, **EXACT)
    inputs = [x, wide.lora_A, wide.lora_B]
    upstream = torch.randn_like(ours)
    got, expected = (torch.autograd.grad(y, inputs, upstream) for y in (ours, reference))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
    assert len({tuple(choice) for choice in wide.gate.routings()["A"].chosen_SC.tolist()}) > 1


def test_the_released_contraction_is_not_the_papers(build_llama: Build) -> None:
    wide = released_linear(build_llama)
    torch.manual_seed(1)
    x = torch.randn(40, 3, 32, dtype=torch.float64)
    wide(x)
    theirs = wide.gate.routings()["B"].chosen_SC.tolist()
    papers = [choose(wide, x_TD.mean(0))[1] for x_TD in x]
    assert wide.gate.routings()["A"].chosen_SC.tolist() == [choose(wide, x_TD.mean(0))[0] for x_TD in x]
    assert theirs != papers


@torch.no_grad()
def test_as_released_reads_padding_and_decides_anew_for_every_token(build_llama: Build) -> None:
    model, attached = adapted(build_llama, as_released=True)
    ids = torch.randint(1, 60, (1, 8))
    model(input_ids=ids)
    first = chosen(attached)
    padded = torch.cat([torch.zeros(1, 8, dtype=torch.long), ids], 1)
    model(input_ids=padded, attention_mask=(padded > 0).long())
    assert chosen(attached) != first
    model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert chosen(attached) != first


def test_as_released_no_router_learns(build_llama: Build) -> None:
    model, attached = adapted(build_llama, as_released=True)
    model(**sample()).logits.square().mean().backward()
    learned = {name for name, p in attached.named_parameters().items() if p.grad is not None and p.grad.any()}
    assert learned == {name for name in attached.named_parameters() if ".gate." not in name}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 17}, "r=17 factors cannot be chosen of num_factors=16"),
        ({"r": 0}, "r=0 must be at least 1"),
        ({"r": -2}, "r=-2 must be at least 1"),
        ({"lora_alpha": 0}, "lora_alpha=0 must be above 0"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0"),
        ({"router_grad": "ste"}, "router_grad='ste' must be one of straight_through, none"),
        ({"routing": "layer"}, "routing='layer' must be one of instance, task, token, random"),
        ({"as_released": True, "routing": "random"}, "as_released routes by instance"),
    ],
)
def test_what_cannot_be_built_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        MixLora(**settings)


def test_targets_that_name_nothing_are_refused(build_llama: Build) -> None:
    with pytest.raises(UserError, match="nothing_proj"):
        attach(build_llama(), MixLora(target_modules=["nothing_proj"]))
