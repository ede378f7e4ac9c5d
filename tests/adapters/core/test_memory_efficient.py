"""The lean core computes what plain autograd does and keeps less for it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import Attached, LlavaMole, Lora, Method, MixLora, attach
from llava_moe.adapters.core.memory_efficient import ExpertGroups, SeededDropout, activate, read, write
from llava_moe.adapters.core.router import Routing, TokenRouter
from llava_moe.adapters.core.target_model import MLP_LINEARS
from llava_moe.model import recompute_activations

METHODS: dict[str, Method] = {
    "lora": Lora(r=3, lora_alpha=5),
    "llava_mole": LlavaMole(num_experts=3, r=2, lora_alpha=3),
    "dense": LlavaMole(num_experts=2, r=3, lora_alpha=3, router="dense"),
    "gate": LlavaMole(num_experts=2, r=3, lora_alpha=3, router="gate"),
    "sorted": LlavaMole(num_experts=3, r=2, lora_alpha=3, dispatch="sorted"),
    "sorted_gate": LlavaMole(num_experts=5, r=1, lora_alpha=3, dispatch="sorted", router="gate"),
    "shared_A": LlavaMole(num_experts=3, r=2, lora_alpha=3, shared_A=True),
    "down_only": LlavaMole(num_experts=3, r=2, lora_alpha=3, expert_modules=["down_proj"], dispatch="sorted"),
    "mixed_layers": LlavaMole(num_experts=(3, 2), r=2, lora_alpha=3),
}


def small(activation: str = "silu", dtype: torch.dtype = torch.float64, num_layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=20,
        intermediate_size=36,
        num_hidden_layers=num_layers,
        num_attention_heads=5,
        hidden_act=activation,
        initializer_range=0.3,
    )
    model: Any = LlamaForCausalLM(config)
    return model.to(dtype).requires_grad_(False)


def randomize(attached: Attached) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in attached.parameters():
            tensor.normal_(std=0.2)


def loss_and_gradients(
    method: Any,
    core: str,
    model: LlamaForCausalLM,
    checkpointing: bool = False,
    compiled: bool = False,
    trains_base: bool = False,
) -> dict[str, Tensor]:
    attached = attach(model.train(), method, core=core)
    randomize(attached)
    if trains_base:
        model.requires_grad_(True)
    if checkpointing:
        recompute_activations(model)
    torch.manual_seed(2)
    # Of random embeddings, so that gradients reach the input of the first layer too.
    x = torch.randn(2, 13, model.config.hidden_size).to(model.dtype).requires_grad_()
    torch.manual_seed(3)
    # Tracing is what may fail on our side; the kernels that inductor would write of the graphs are torch's.
    run: Any = torch.compile(model, backend="aot_eager") if compiled else model
    output = run(inputs_embeds=x, use_cache=False).logits
    loss = output.square().mean() + attached.auxiliary_loss()
    loss.backward()
    assert x.grad is not None
    found = {name: tensor.grad for name, tensor in attached.named_parameters().items() if tensor.grad is not None}
    assert found.keys() == attached.named_parameters().keys()
    return {"output": output.detach(), "x": x.grad, **found}


def assert_same(ours: dict[str, Tensor], reference: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == reference.keys()
    for name, expected in reference.items():
        torch.testing.assert_close(
            ours[name], expected, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_values_and_all_gradients_are_those_of_plain_autograd(method: Any, activation: str) -> None:
    lean = loss_and_gradients(method, "lean", small(activation))
    assert_same(lean, loss_and_gradients(method, "autograd", small(activation)), 1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_base_that_trains_beside_its_adapter_gets_plain_autograds_gradients(method: Any) -> None:
    found = []
    for core in ("lean", "autograd"):
        model = small()
        loss_and_gradients(method, core, model, trains_base=True)
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any(name.endswith("mlp.up_proj.base.weight") for name in found[0])
    assert_same(found[0], found[1], 1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_bf16_rounds_as_plain_autograd_does(method: Any) -> None:
    lean = loss_and_gradients(method, "lean", small(dtype=torch.bfloat16))
    plain = loss_and_gradients(method, "autograd", small(dtype=torch.bfloat16))
    assert_same(lean, plain, 2e-2)
    exact = loss_and_gradients(method, "autograd", small(dtype=torch.float64))
    for name, expected in exact.items():
        scale = expected.abs().max()
        ours, theirs = (float((found[name].double() - expected).abs().max() / scale) for found in (lean, plain))
        assert ours < 1.5 * theirs + 0.02, name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dispatch", ["masked", "sorted"])
def test_recomputing_activations_changes_no_gradient_dropout_included(dispatch: str, dropout: float) -> None:
    method = LlavaMole(num_experts=3, r=2, lora_dropout=dropout, dispatch=dispatch)
    plain = loss_and_gradients(method, "lean", small())
    recomputed = loss_and_gradients(method, "lean", small(), checkpointing=True)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "llava_mole"])
def test_a_compiled_model_computes_the_same(name: str) -> None:
    method = METHODS[name]
    # Of one layer: its seven linears are as many graphs as torch compiles before it gives a function up.
    plain = loss_and_gradients(method, "lean", small(dtype=torch.float32, num_layers=1))
    compiled = loss_and_gradients(method, "lean", small(dtype=torch.float32, num_layers=1), compiled=True)
    assert_same({key.removeprefix("_orig_mod."): value for key, value in compiled.items()}, plain, 1e-5)


def test_dropout_has_its_own_mask_forward_and_backward() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 12, dtype=torch.float64, requires_grad=True)
    reader = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    dropping = SeededDropout(5, 0.4)
    mask = dropping(torch.ones_like(x)).detach()
    assert set(mask.unique().tolist()) == {0.0, 1 / 0.6}
    upstream = torch.randn(50, 3, dtype=torch.float64)
    ours = torch.autograd.grad(read(x, [reader], dropping), [x, reader], upstream)
    reference = torch.autograd.grad((x * mask) @ reader.T, [x, reader], upstream)
    for got, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


def test_dropout_leaves_the_mean_as_it_is_in_bf16() -> None:
    x = torch.ones(4000, 500, dtype=torch.bfloat16)
    kept = SeededDropout(1, 0.05)(x).double()
    assert kept.unique().numel() == 2
    assert float((kept == 0).double().mean()) == pytest.approx(0.05, abs=0.001)
    assert float(SeededDropout(1, 0.05)(x.float()).double().mean()) == pytest.approx(1.0, abs=0.001)


def test_functions_have_the_gradients_that_finite_differences_find() -> None:
    torch.manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    runs = ExpertGroups((2, 0, 5))
    gate, up = numbers(7, 6), numbers(7, 6)
    assert torch.autograd.gradcheck(lambda g, u: activate(g, u, nn.functional.silu), (gate, up))
    readers = (numbers(3, 6), numbers(6, 6))
    assert torch.autograd.gradcheck(lambda x, *a: read(x, a, SeededDropout(3, 0.3)), (numbers(7, 6), *readers))
    assert torch.autograd.gradcheck(lambda x, *a: read(x, a, None, runs), (numbers(7, 6), *readers))

    def mix(z: Tensor, w: Tensor) -> Tensor:
        return (z.unflatten(-1, (3, -1)) * w.unsqueeze(-1)).flatten(-2)

    def written(y: Tensor, z: Tensor, b: Tensor, w: Tensor) -> Tensor:
        return write(y * 1, z, b, 1.3, mix, (w,))

    assert torch.autograd.gradcheck(written, (numbers(7, 4), numbers(7, 6), numbers(4, 6), numbers(7, 3)))


class Products(TorchDispatchMode):
    """Counts matrix products by the width of their result."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.widths.append(result.shape[-1])
        return result


def test_linears_with_one_input_are_read_in_one_product() -> None:
    model = small()
    attach(model, Lora(r=3))
    with Products() as products:
        model(inputs_embeds=torch.randn(1, 7, 20, dtype=torch.float64), use_cache=False)
    reads = [width for width in products.widths if width in (3, 6, 9)]
    assert reads == [9, 3, 6, 3] * 2  # q, k and v; o; gate and up; down


def test_a_linear_called_alone_reads_for_itself_and_leaves_nothing_behind() -> None:
    model = small()
    randomize(attach(model, Lora(r=3)))
    attention = model.model.layers[0].self_attn
    x = torch.randn(1, 7, 20, dtype=torch.float64, requires_grad=True)
    for linear in (attention.q_proj, attention.k_proj, attention.k_proj, attention.v_proj):
        linear(x).sum().backward()  # a shared reading would hang on the graph that the one before has freed
        assert linear.lora_A.grad is not None


def test_an_exception_within_a_block_leaves_nothing_for_the_next_call() -> None:
    model = small()
    randomize(attach(model, Lora(r=3)))
    attention, x = model.model.layers[0].self_attn, torch.randn(1, 7, 20, dtype=torch.float64)
    expected = model(inputs_embeds=x).logits

    def fail(*_: Any) -> None:
        raise RuntimeError("in between")

    handle = attention.k_proj.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in between"):
        model(inputs_embeds=x)
    handle.remove()
    assert attention.q_proj.siblings._waiting == {}
    assert torch.equal(model(inputs_embeds=x).logits, expected)


def test_a_hook_that_puts_another_input_before_down_proj_is_heeded() -> None:
    def gradient(core: str) -> Tensor:
        model = small()
        randomize(attach(model, Lora(r=3), core=core))
        down = model.model.layers[0].mlp.down_proj
        down.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
        torch.manual_seed(4)
        model(inputs_embeds=torch.randn(1, 7, 20, dtype=torch.float64)).logits.square().mean().backward()
        assert down.source is None
        return down.lora_A.grad

    torch.testing.assert_close(gradient("lean"), gradient("autograd"), atol=1e-12, rtol=1e-12)


def test_a_hook_on_the_activation_runs() -> None:
    model, calls = small(), []
    attach(model, Lora(r=3))
    model.model.layers[0].mlp.act_fn.register_forward_hook(lambda *_: calls.append(1))
    model(inputs_embeds=torch.randn(1, 7, 20, dtype=torch.float64))
    assert calls == [1]


def test_a_forward_of_somebody_else_is_run_and_comes_back() -> None:
    model = small()
    mlp = model.model.layers[0].mlp
    mlp.forward = theirs = lambda x: x * 2
    attached = attach(model, Lora(r=3))
    x = torch.randn(1, 7, 20, dtype=torch.float64)
    assert torch.equal(mlp(x), x * 2)
    attached.detach()
    assert mlp.forward is theirs


@pytest.mark.parametrize("name", ["lora", "llava_mole", "sorted"])
def test_a_model_can_be_pickled_and_copied(name: str) -> None:
    model = small()
    randomize(attach(model, METHODS[name]))
    x = torch.randn(1, 7, 20, dtype=torch.float64)
    expected = model(inputs_embeds=x).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(inputs_embeds=x).logits, expected)
        assert twin.model.layers[0].mlp.forward.args[0] is twin.model.layers[0].mlp


def test_sorted_experts_of_another_dtype_than_the_base_are_the_masked_ones() -> None:
    def output(dispatch: str) -> Tensor:
        model = small(dtype=torch.bfloat16)
        attached = attach(model, LlavaMole(num_experts=3, r=2, dispatch=dispatch))
        randomize(attached)
        for tensor in attached.parameters():
            tensor.data = tensor.data.float()
        torch.manual_seed(4)
        return model(inputs_embeds=torch.randn(1, 7, 20).bfloat16()).logits

    torch.testing.assert_close(output("sorted"), output("masked"), atol=2e-2, rtol=2e-2)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(activate(x, x * 2, nn.functional.silu).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        gradient.sum().backward()


def test_an_mlp_takes_no_tokens_and_its_argument_by_name() -> None:
    model = small()
    attach(model, METHODS["llava_mole"])
    mlp = model.model.layers[0].mlp
    assert mlp(x=torch.randn(1, 0, 20, dtype=torch.float64)).shape == (1, 0, 20)


@pytest.mark.parametrize("method", [LlavaMole(num_experts=3, r=2), MixLora(num_factors=6, r=2)], ids=["mole", "mix"])
def test_two_calls_before_one_backward_are_recomputed_each_by_its_own(method: Any) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = small().train()
        attached = attach(model, method)
        randomize(attached)
        if checkpointing:
            recompute_activations(model)
        loss: Any = 0.0
        for seed, prompt in ((1, 3), (2, 6)):
            input_ids = torch.randint(1, 64, (1, 9), generator=torch.Generator().manual_seed(seed))
            labels = input_ids.clone()
            labels[:, :prompt] = -100
            loss = loss + model(input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        return {name: tensor.grad for name, tensor in attached.named_parameters().items() if tensor.grad is not None}

    assert_same(gradients(True), gradients(False), 1e-12)


@pytest.mark.parametrize("dispatch", ["masked", "sorted"])
def test_a_recomputed_router_holds_its_layer_no_longer_than_it_takes(dispatch: str) -> None:
    model = small().train()
    attached = attach(model, LlavaMole(num_experts=3, r=2, dispatch=dispatch))
    randomize(attached)
    recompute_activations(model)
    input_ids = torch.randint(1, 64, (1, 9), generator=torch.Generator().manual_seed(1))
    loss = model(input_ids, labels=input_ids, use_cache=False).loss
    before = attached.routings()
    (loss + attached.auxiliary_loss()).backward()
    after = attached.routings()
    for name, routing in before.items():
        again = after[name]
        assert isinstance(routing, Routing) and isinstance(again, Routing) and again.probs_BTK is routing.probs_BTK
    routers = [module for module in model.modules() if isinstance(module, TokenRouter)]
    assert len(routers) > 1 and sum(router.weights_BTK is not None for router in routers) == 1


def quantized(model: LlamaForCausalLM, bits: int) -> dict[str, Tensor]:
    """Quantise the linears of the decoder in place and return what their weights are then, dense."""
    dense = {}
    for name, linear in list(model.model.named_modules()):
        if not isinstance(linear, nn.Linear):
            continue
        weight = linear.weight.detach()
        if bits == 4:
            new = bitsandbytes.nn.Linear4bit(
                *weight.shape[::-1], bias=False, compute_dtype=weight.dtype, quant_type="nf4"
            )
            new.weight = bitsandbytes.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4")
            new = new.to("cpu")
            state = new.weight.quant_state
            dense[name] = bitsandbytes.functional.dequantize_4bit(new.weight.data, state).to(weight.dtype)
        else:
            new = bitsandbytes.nn.Linear8bitLt(*weight.shape[::-1], bias=False, has_fp16_weights=False)
            new.weight = bitsandbytes.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
            new = new.to("cpu")
            dense[name] = new.weight.data.to(weight.dtype) * (new.weight.SCB / 127).unsqueeze(1).to(weight.dtype)
        model.model.set_submodule(name, new)
    return dense


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["lora", "llava_mole", "sorted"])
def test_a_quantized_base_serves_as_its_dense_self(name: str, bits: int) -> None:
    method = METHODS[name]
    model = small(dtype=torch.float32)
    dense = quantized(model, bits)
    ours = loss_and_gradients(method, "lean", model)
    plain_model = small(dtype=torch.float32)
    quantized(plain_model, bits)
    assert_same(ours, loss_and_gradients(method, "autograd", plain_model), 1e-5)
    if bits == 4:  # 8 bits also round the input, which no dense weight does
        dense_model = small(dtype=torch.float32)
        for name_, weight in dense.items():
            dense_model.model.get_submodule(name_).weight.data.copy_(weight)
        assert_same(ours, loss_and_gradients(method, "autograd", dense_model), 1e-4)


def test_a_copied_model_reads_with_its_own_banks() -> None:
    model = small()
    randomize(attach(model, Lora(r=3)))
    x = torch.randn(1, 7, 20, dtype=torch.float64)
    before = model(inputs_embeds=x).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.zero_()
    assert torch.equal(twin(inputs_embeds=x).logits, before)
    assert not torch.equal(model(inputs_embeds=x).logits, before)


def test_tokens_of_one_expert_leave_the_others_runs_empty() -> None:
    model = small()
    attached = attach(model, LlavaMole(num_experts=3, r=2, dispatch="sorted", router="hard"))
    randomize(attached)
    with torch.no_grad():
        for name, tensor in attached.named_parameters().items():
            if name.endswith("router.bias"):
                tensor.copy_(torch.tensor([0.0, 1e4, 0.0]))
    model(inputs_embeds=torch.randn(1, 7, 20, dtype=torch.float64)).logits.square().mean().backward()
    for name, tensor in attached.named_parameters().items():
        if "gate_proj.lora_A" in name:
            assert tensor.grad is not None
            assert [bool(rows.any()) for rows in tensor.grad.split(2)] == [False, True, False]


# --- what is kept and what is computed, on one MLP of a 7B model's proportions ---------------------------------------

D, F, R, K, N = 1024, 2752, 16, 4, 96


def mlp_of(wrap: Callable[[LlamaForCausalLM], Any]) -> nn.Module:
    config = LlamaConfig(vocab_size=8, hidden_size=D, intermediate_size=F, num_hidden_layers=1, num_attention_heads=8)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).requires_grad_(False)
    mlp = model.model.layers[0].mlp
    wrap(model)
    return mlp


def kept_per_token(mlp: nn.Module) -> float:
    """Values of 16 bits per token, in units of D, that autograd keeps for the backward pass; parameters apart."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(1, N, D, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mlp(x)
    weights = {tensor.untyped_storage().data_ptr() for tensor in mlp.parameters()}
    # The readers' rows side by side are a copy of parameters, not of tokens.
    tokens = [size for pointer, size in kept.items() if pointer not in weights and size % (2 * N) == 0]
    return sum(tokens) / (2 * N * D)


def flops_of(mlp: nn.Module) -> int:
    x = torch.randn(1, N, D, dtype=torch.bfloat16, requires_grad=True)
    # The counter knows addmm but not its in-place form.
    in_place = {torch.ops.aten.addmm_: lambda y, left, right, **_: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        mlp(x).backward(torch.ones(1, N, D, dtype=torch.bfloat16))
    return counter.get_total_flops()


def with_peft(model: LlamaForCausalLM) -> None:
    config = LoraConfig(r=R, lora_alpha=2 * R, target_modules=list(MLP_LINEARS))
    get_peft_model(model, config, autocast_adapter_dtype=False)


LORA = Lora(r=R, lora_alpha=2 * R, target_modules=MLP_LINEARS)
MOLE = LlavaMole(num_experts=K, r=R, lora_alpha=2 * R, target_modules=MLP_LINEARS)


def test_an_mlp_keeps_little_for_backward_and_experts_hardly_add() -> None:
    lora, mole = (kept_per_token(mlp_of(partial(attach, config=method))) for method in (LORA, MOLE))
    assert kept_per_token(mlp_of(lambda model: attach(model, LORA, core="autograd"))) > 11
    assert lora < 6.7 and mole < 6.7
    assert lora < 0.6 * kept_per_token(mlp_of(with_peft))
    assert mole < 1.03 * lora


def test_an_mlp_multiplies_as_often_as_the_formula_says() -> None:
    frozen = 2 * 2 * N * 3 * D * F  # forward, and the gradient of the input
    sizes = 3 * (D + F)

    def bank(width: int) -> int:
        return 3 * 2 * N * width * sizes  # forward, the gradients of input and of parameters

    assert flops_of(mlp_of(lambda model: attach(model, LORA))) == frozen + bank(R)
    router = 3 * 2 * N * D * K
    assert flops_of(mlp_of(lambda model: attach(model, MOLE))) == frozen + bank(K * R) + router
    in_order = LlavaMole(num_experts=K, r=R, target_modules=MLP_LINEARS, dispatch="sorted")
    assert flops_of(mlp_of(lambda model: attach(model, in_order))) == frozen + bank(R) + router
