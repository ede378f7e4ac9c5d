"""Several forward passes before one backward pass, recomputed or not: the gradient is that of each pass by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.bloom import BloomConfig, BloomForCausalLM
from transformers.models.falcon import FalconConfig, FalconForCausalLM
from transformers.models.gpt_neox import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.opt import OPTConfig, OPTForCausalLM

from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole, attach
from llava_moe.errors import UserError
from tests.tiny_models import TEXT

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FALCON = {**SMALL, "new_decoder_architecture": False, "multi_query": True, "bias": False}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TEXT)),
    "falcon": lambda: FalconForCausalLM(FalconConfig(**FALCON)),
    "falcon_alibi": lambda: FalconForCausalLM(FalconConfig(**FALCON, alibi=True)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=64)),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0)
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64, dropout=0.0)
    ),
}
MLP = {"llama": ("up_proj", "down_proj"), "opt": ("fc1", "fc2")}
Make = Callable[[str, Path], Any]


def llava_mole(router: Any) -> Make:
    return lambda family, _: LlavaMole(
        num_experts=3, r=2, router=router, target_modules="all-linear", expert_modules=mlp_of(family)
    )


def mixlora(routing: Any) -> Make:
    return lambda family, _: MixLora(num_factors=4, r=2, routing=routing, target_modules="all-linear")


def mole(granularity: Any, exact: bool = False) -> Make:
    return lambda family, folder: Mole(loras(family, folder), granularity=granularity, exact=exact)


METHODS: dict[str, Make] = {
    "lora": lambda family, _: Lora(r=2, target_modules="all-linear"),
    **{f"llava_mole_{router}": llava_mole(router) for router in ("straight_through", "gate", "dense")},
    **{f"mixlora_{routing}": mixlora(routing) for routing in ("instance", "task", "token")},
    "mixlora_released": lambda family, _: MixLora(num_factors=4, r=2, as_released=True, target_modules="all-linear"),
    **{f"mole_{granularity}": mole(granularity) for granularity in ("matrix", "layer", "block", "network")},
    **{f"mole_exact_{granularity}": mole(granularity, exact=True) for granularity in ("layer", "block")},
}
OTHERS = ("lora", "llava_mole_gate", "mixlora_instance", "mole_matrix", "mole_block", "mole_network")
CASES = [("llama", method) for method in METHODS]
CASES += [(family, method) for family in FAMILIES if family != "llama" for method in OTHERS]
# OPT's MLP is no module of its own, and is called with the tokens of all rows in one.
CASES.remove(("opt", "llava_mole_gate"))


def build(family: str) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family]().double().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from where all inputs look alike
    return model


def mlp_of(family: str) -> tuple[str, ...]:
    return MLP.get(family, ("dense_h_to_4h", "dense_4h_to_h"))


def loras(family: str, folder: Path) -> list[str]:
    places = []
    for number in range(2):
        place = folder / f"expert{number}"
        if not place.exists():
            attached = attach(build(family), Lora(r=2 + number, target_modules="all-linear"))
            randomize(attached, number)
            attached.save(place)
        places.append(str(place))
    return places


def randomize(attached: Any, seed: int = 1) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.trainable_parameters().values():
            parameter.normal_(std=0.3)


def calls() -> list[dict[str, Any]]:
    """Three calls of other widths, rows and prompts."""
    torch.manual_seed(5)
    found = []
    for rows, length, prompt in ((2, 7, 3), (1, 11, 5), (3, 7, 2)):
        ids = torch.randint(1, 60, (rows, length))
        labels = ids.clone()
        labels[:, :prompt] = -100
        found.append({"input_ids": ids, "labels": labels, "use_cache": False})
    return found


def loss_of(model: Any, attached: Any, inputs: dict[str, Any]) -> torch.Tensor:
    loss = model(**inputs).loss
    return loss + attached.load_balance_coef * attached.auxiliary_loss() if attached.has_balance_loss else loss


def gradients(
    family: str, config: Any, is_recomputed: bool, passes: int | None, use_reentrant: bool = False
) -> dict[str, torch.Tensor]:
    """Of three calls: each with its own backward pass (``passes=None``), or of so many with one backward pass."""
    model = build(family).train()
    attached = attach(model, config)
    randomize(attached)
    if is_recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        if use_reentrant:
            model.enable_input_require_grads()
    if passes is None:
        for inputs in calls():
            loss_of(model, attached, inputs).backward()
    else:
        losses = []
        for inputs in calls():
            losses.append(loss_of(model, attached, inputs))
            with torch.no_grad():  # an answer is asked for in between
                model.eval()(input_ids=inputs["input_ids"][:1, :4])
                model.train()
            if len(losses) == passes:
                torch.stack(losses).sum().backward()
                losses = []
        if losses:
            torch.stack(losses).sum().backward()
    return {name: p.grad for name, p in attached.trainable_parameters().items() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and expected
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], atol=1e-9, rtol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(("family", "method"), CASES, ids=["-".join(case) for case in CASES])
def test_passes_before_one_backward_pass_have_the_gradient_of_each_alone(
    family: str, method: str, tmp_path: Path
) -> None:
    config = METHODS[method](family, tmp_path)
    expected = gradients(family, config, is_recomputed=False, passes=None)
    assert_same(gradients(family, config, is_recomputed=False, passes=3), expected)
    for passes in (1, 2, 3):
        assert_same(gradients(family, config, is_recomputed=True, passes=passes), expected)


@pytest.mark.parametrize("method", ["lora", "mixlora_instance", "mole_matrix", "mole_block"])
def test_reentrant_recomputation_finds_its_call_too(method: str, tmp_path: Path) -> None:
    config = METHODS[method]("llama", tmp_path)
    expected = gradients("llama", without_balance(config), is_recomputed=False, passes=None)
    found = gradients("llama", without_balance(config), is_recomputed=True, passes=2, use_reentrant=True)
    assert_same(found, expected)


def without_balance(config: Any) -> Any:
    return config if not isinstance(config, Mole) else Mole(config.experts, config.granularity, balance_coef=0.0)


def test_a_decision_for_all_layers_refuses_reentrant_recomputation(tmp_path: Path) -> None:
    config = without_balance(METHODS["mole_network"]("llama", tmp_path))
    with pytest.raises(ValueError, match="set use_reentrant=False"):
        gradients("llama", config, is_recomputed=True, passes=1, use_reentrant=True)


def test_the_whole_network_run_for_each_expert_still_refuses_recomputation(tmp_path: Path) -> None:
    config = Mole(loras("llama", tmp_path), granularity="network", exact=True)
    with pytest.raises(UserError, match="exclude each other"):
        gradients("llama", config, is_recomputed=True, passes=1)


@pytest.mark.parametrize("method", ["llava_mole_gate", "mixlora_instance", "mole_matrix", "mole_network"])
def test_what_the_last_pass_decided_stays_told_after_a_backward_pass(method: str, tmp_path: Path) -> None:
    model = build("llama").train()
    attached = attach(model, METHODS[method]("llama", tmp_path))
    randomize(attached)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    first, second, _ = calls()
    early = model(**first).loss
    late = model(**second).loss
    domains = torch.zeros_like(second["input_ids"])
    before = attached.expert_totals(domains, 1)
    early.backward()
    after = attached.expert_totals(domains, 1)
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.entropy, after.entropy)
    late.backward()
    assert torch.equal(attached.expert_totals(domains, 1).tokens, before.tokens)


def test_calls_that_are_over_are_not_kept(tmp_path: Path) -> None:
    model = build("llama").train()
    attached = attach(model, METHODS["mole_network"]("llama", tmp_path))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for _ in range(3):
        for inputs in calls():
            model(**inputs).loss.backward()
        model(**calls()[0])  # its backward pass never comes
    assert attached._segments.history.num_named <= 1


class WithoutNames(torch.nn.Module):
    """An attention that is handed hidden states alone."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.kwargs: dict[str, Any] = {}

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        return self.inner(hidden_states, **self.kwargs)


def test_an_attention_that_does_not_name_its_call_is_refused_where_there_is_doubt(tmp_path: Path) -> None:
    model = build("llama").train()
    for layer in model.model.layers:
        layer.self_attn = WithoutNames(layer.self_attn)
        layer.self_attn.inner.forward = lambda hidden_states, **_: (hidden_states, None)
        layer.register_forward_pre_hook(lambda _, args, kwargs: (args, {"attention_mask": None}), with_kwargs=True)
    attach(model, Mole([str(x) for x in loras_of_mlp(tmp_path)], granularity="matrix"))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for inputs in calls():
            model(**inputs).loss.backward()
        losses = [model(**inputs).loss for inputs in calls()]
        with pytest.raises(ValueError, match="does not say which of several forward passes"):
            torch.stack(losses).sum().backward()


def loras_of_mlp(folder: Path) -> list[Path]:
    for number in range(2):
        attached = attach(build("llama"), Lora(r=2, target_modules=["up_proj", "down_proj"]))
        randomize(attached, number)
        attached.save(folder / f"mlp{number}")
    return [folder / "mlp0", folder / "mlp1"]
