"""Which parameters are an adapter's, and what the model holds without them."""

from __future__ import annotations

import torch
from torch import nn

from llava_moe.adapters.core.adapter_parameters import AdapterParameters
from llava_moe.adapters.core.injector import Injector
from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.router import TokenRouter
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.wide_linear import WideLinear
from tests.tiny_models import smallest_llama

BLOCK = "layers.0.mlp"


def put_on() -> tuple[nn.Module, AdapterParameters]:
    model = smallest_llama().model
    target_model = TargetModel.of(model)
    linears = {name: WideLinear(base, {"": 2}, 1.0) for name, base in target_model.select(["up_proj"]).items()}
    routers = {BLOCK: TokenRouter(16, 2, "hard", torch.device("cpu"))}
    injection = Injection(linears, routers, {f"{BLOCK}.extra": nn.Linear(1, 1, bias=False)})
    Injector(target_model, injection, Segments(), "lean").put_in()
    return model, AdapterParameters(target_model, injection)


def test_they_are_those_of_banks_routers_and_modules_without_the_bases() -> None:
    model, parameters = put_on()
    leaves = ["up_proj.lora_A", "up_proj.lora_B", "extra.weight", "router.weight", "router.bias"]
    assert list(parameters.named()) == [f"{BLOCK}.{leaf}" for leaf in leaves]
    assert all(model.get_parameter(name) is tensor for name, tensor in parameters.named().items())
    assert parameters.num_elements == 2 * 16 + 24 * 2 + 1 + 2 * 16 + 2


def test_what_is_frozen_does_not_train() -> None:
    model, parameters = put_on()
    model.get_parameter(f"{BLOCK}.extra.weight").requires_grad_(False)
    assert parameters.named().keys() - parameters.trainable().keys() == {f"{BLOCK}.extra.weight"}


def test_without_them_the_model_has_the_tensors_and_names_of_its_base() -> None:
    _, parameters = put_on()
    base, found = smallest_llama().model.state_dict(), parameters.base_state_dict()
    assert list(found) == list(base) and all(torch.equal(found[name], base[name]) for name in base)
