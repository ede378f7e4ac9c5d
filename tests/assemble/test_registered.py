"""Objects of a configuration: a class speaks of its own settings, the configuration adds where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole, attach
from llava_moe.assemble import ADAPTERS, from_target
from llava_moe.assemble.registered import settings_named, with_keys
from llava_moe.assemble.start_adapter import attach_from
from llava_moe.errors import UserError
from tests.tiny_models import tiny_llama

EXPERTS: dict[str, Any] = {"num_experts": 2, "r": 2}
WRONG: list[tuple[type, dict[str, Any], str]] = [
    (Lora, {"r": 0}, "[r]=0 must be at least 1"),
    (Lora, {"lora_alpha": 0}, "[lora_alpha]=0 must be above 0 and at most 1000000"),
    (Lora, {"lora_dropout": 1.0}, "[lora_dropout]=1.0 must be at least 0 and below 1"),
    (LlavaMole, {"num_experts": 0}, "[num_experts]=0 must be at least 1"),
    (LlavaMole, {"dispatch": "both"}, "[dispatch]='both' must be one of auto, masked, sorted"),
    (
        LlavaMole,
        {"dispatch": "sorted", "router": "dense"},
        "[dispatch]=sorted needs tokens that visit one expert, but [router]=dense uses all experts: leave it out",
    ),
    (
        LlavaMole,
        {"dispatch": "sorted", "shared_A": True},
        "[dispatch]=sorted needs tokens that visit one expert, but [shared_A] reads with one A: leave it out",
    ),
    (LlavaMole, {"router": "no"}, "[router]='no' must be one of straight_through, hard, gate, dense"),
    (LlavaMole, {"load_balance": "no"}, "[load_balance]='no' must be one of per_layer, pooled"),
    (LlavaMole, {"load_balance_coef": -1.0}, "[load_balance_coef]=-1.0 must not be negative"),
    (
        LlavaMole,
        {"num_experts": 1, "load_balance_coef": 1.0},
        "[load_balance_coef]=1.0 has nothing to balance with one expert; leave it out",
    ),
    (MixLora, {"r": 17}, "[r]=17 factors cannot be chosen of [num_factors]=16: lower r"),
    (MixLora, {"routing": "mask"}, "[routing]='mask' must be one of instance, task, token, random"),
    (
        MixLora,
        {"as_released": True, "routing": "task"},
        "[as_released] routes by instance, not by task: leave one out",
    ),
    (Mole, {"experts": []}, "[experts] is empty: name folders of LoRAs, such as [experts]=[runs/a,runs/b]"),
    (Mole, {"experts": ["a"], "granularity": "x"}, "[granularity]='x' must be one of matrix, layer, block, network"),
    (Mole, {"experts": ["a"], "temperature": 0.0}, "[temperature]=0.0 must be above 0"),
    (Mole, {"experts": ["a"], "balance_coef": -1.0}, "[balance_coef]=-1.0 must not be negative"),
    (
        Mole,
        {"experts": ["a"], "mask": [0]},
        "[mask]=[0] must be 1 numbers 0 or 1, at least one of them 1, for as many experts",
    ),
]
"""A class, wrong settings of it, and what is said, with settings in brackets."""
UNFIT: list[tuple[Any, str]] = [
    (Lora(target_modules=["other"]), "[target_modules] ['other'] match no linear layer of LlamaModel"),
    (LlavaMole(**EXPERTS, expert_modules=["other"]), "[expert_modules] ['other'] match no linear layer"),
    (
        LlavaMole(**EXPERTS, expert_modules=["up_proj"], target_modules=["q_proj"]),
        "[expert_modules]=('up_proj',) names nothing of [target_modules]=('q_proj',)",
    ),
    (LlavaMole(num_experts=[2, 2, 2], r=2), "[num_experts]=[2,2,2] lists 3 layers, the model has 2"),
    (LlavaMole(**EXPERTS, expert_layers=[7]), "[expert_layers]=[7] must name layers from 0 to 1"),
    (
        LlavaMole(num_experts=[2, 3], r=2, load_balance="pooled"),
        "[load_balance]=pooled adds up layers of one [num_experts]: use per_layer",
    ),
    (MixLora(num_factors=5000, r=2), "[num_factors]=5000 is more than any linear here can use"),
    (LlavaMole(num_experts=2, r=5000), "[r]=5000 is more than any linear here can use"),
]
"""A method, and what is said of it on a model of two layers."""


def spelled(told: str, key: str) -> str:
    """``[r]=0`` as a class says it, or a configuration."""
    return re.sub(r"\[([a-z][a-zA-Z_]+|r)\](?=[= ]|:)", rf"{key}\1", told)


@pytest.mark.parametrize(("kind", "values", "told"), WRONG)
def test_a_class_names_its_own_settings_and_a_configuration_the_keys(
    kind: Callable[..., object], values: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as alone:
        kind(**values)
    assert str(alone.value) == spelled(told, "")
    with pytest.raises(UserError) as configured:
        from_target({"_target_": f"llava_moe.adapters.{kind.__name__}", **values}, ADAPTERS)
    assert str(configured.value) == spelled(told, "adapter.")


@pytest.mark.parametrize(("method", "told"), UNFIT)
def test_a_method_that_does_not_fit_a_model_is_told_by_its_keys(method: Any, told: str) -> None:
    model: Any = tiny_llama()
    with pytest.raises(UserError) as alone:
        attach(model, method)
    assert str(alone.value).startswith(spelled(told, ""))
    with pytest.raises(UserError) as configured:
        attach_from(model, method, None)
    assert str(configured.value).startswith(spelled(told, "adapter."))


def test_sizes_that_no_memory_holds_are_told_by_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_moe.adapters.core.sizes_asked._memory_of", lambda device: 1)
    model: Any = tiny_llama()
    with pytest.raises(UserError, match=r"^an adapter of adapter\.r=2, adapter\.num_experts=2 has "):
        attach_from(model, LlavaMole(**EXPERTS), None)


@pytest.mark.parametrize(
    "told",
    [
        "experts.0.lora_A.weight is missing",
        "runs/r=8: the file holds 'num_experts=3', and model.r=8",
        "the experts of a router are dense",
    ],
)
def test_values_paths_and_words_of_a_sentence_are_no_settings(told: str) -> None:
    assert with_keys(told, ["r", "num_experts", "experts", "router"], "adapter") == told


@pytest.mark.parametrize("told", ["init_from=here: its adapter is another", "the disk is full", ""])
def test_what_is_no_setting_of_the_class_stays_as_it_is(told: str) -> None:
    with pytest.raises(UserError) as caught, settings_named(Lora, "adapter"):
        raise UserError(told)
    assert str(caught.value) == told
