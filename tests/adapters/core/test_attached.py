"""The handle: what it names, saves, loads and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_moe.adapters import LlavaMole, Lora, NoAdapter, attach, load_adapter
from llava_moe.errors import UserError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def randomize(attached: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.fixture
def saved(build_llava: Any, tmp_path: Path) -> Path:
    attached = attach(
        build_llava(),
        LlavaMole(
            num_experts=2, r=2, load_balance_coef=0.02, target_modules=["q_proj", "up_proj"], expert_modules=["up_proj"]
        ),
    )
    randomize(attached)
    attached.save(tmp_path)
    return tmp_path


def test_parameters_are_named_as_the_model_names_them(build_llama: Any) -> None:
    model = build_llama()
    attached = attach(model, LlavaMole(r=2))
    everything = dict(model.named_parameters())
    assert all(everything[name] is parameter for name, parameter in attached.named_parameters().items())
    assert "model.layers.0.mlp.router.weight" in attached.named_parameters()
    assert "model.layers.0.mlp.up_proj.lora_A" in attached.named_parameters()
    assert [id(p) for p in attached.parameters()] == [id(p) for p in attached.named_parameters().values()]


def test_file_has_a_tensor_per_expert_under_a_readable_name(saved: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(saved / TENSORS).items()}
    layer = {
        "mlp.router.bias": (2,),
        "mlp.router.weight": (2, 32),
        "mlp.up_proj.experts.0.lora_A.weight": (2, 32),
        "mlp.up_proj.experts.0.lora_B.weight": (56, 2),
        "mlp.up_proj.experts.1.lora_A.weight": (2, 32),
        "mlp.up_proj.experts.1.lora_B.weight": (56, 2),
        "self_attn.q_proj.lora_A.weight": (2, 32),
        "self_attn.q_proj.lora_B.weight": (32, 2),
    }
    assert shapes == {f"language_model.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}


def test_settings_file_holds_method_version_and_every_field(saved: Path) -> None:
    assert json.loads((saved / CONFIG).read_text()) == {
        "method": "llava_mole",
        "format_version": 1,
        "base": {
            "name": None,
            "model_type": "llava",
            "text_model_type": "llama",
            "hidden_size": 32,
            "num_hidden_layers": 2,
        },
        "num_experts": 2,
        "r": 2,
        "lora_alpha": 64,
        "lora_dropout": 0.0,
        "router": "straight_through",
        "load_balance_coef": 0.02,
        "load_balance": "per_layer",
        "target_modules": ["q_proj", "up_proj"],
        "expert_modules": ["up_proj"],
        "use_rslora": False,
        "expert_layers": None,
        "shared_A": False,
        "dispatch": "auto",
    }


def test_loaded_settings_equal_the_saved(saved: Path, build_llava: Any) -> None:
    config = load_adapter(build_llava(), saved).config
    assert config == LlavaMole(
        num_experts=2, r=2, load_balance_coef=0.02, target_modules=("q_proj", "up_proj"), expert_modules=("up_proj",)
    )


def test_adapter_moves_between_a_model_and_its_body(build_llama: Any, tmp_path: Path) -> None:
    attached = attach(build_llama(), LlavaMole(r=2))
    randomize(attached)
    attached.save(tmp_path)
    bare = load_adapter(build_llama().model, tmp_path).state_dict()
    assert all(torch.equal(bare[name], tensor) for name, tensor in attached.state_dict().items())


def test_given_tensors_are_written_in_place_of_the_live(build_llama: Any, tmp_path: Path) -> None:
    attached = attach(build_llama().bfloat16(), LlavaMole(r=2))
    masters = {name: torch.randn(p.shape) for name, p in attached.named_parameters().items() if "layers.1" in name}
    attached.save(tmp_path, masters)
    tensors = load_file(tmp_path / TENSORS)
    up = masters["model.layers.1.mlp.up_proj.lora_B"]
    assert torch.equal(tensors["layers.1.mlp.up_proj.experts.2.lora_B.weight"], up[:, 4:])
    assert tensors["layers.1.mlp.up_proj.experts.0.lora_A.weight"].dtype == torch.float32
    assert tensors["layers.0.mlp.up_proj.experts.0.lora_A.weight"].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="stranger"):
        attached.save(tmp_path, {"stranger": torch.zeros(1)})


def test_fp32_file_loads_into_a_bf16_model_in_its_dtype(build_llama: Any, tmp_path: Path) -> None:
    attached = attach(build_llama(), Lora(r=2))
    randomize(attached)
    attached.save(tmp_path)
    loaded = load_adapter(build_llama().bfloat16(), tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p, q.bfloat16()) for p, q in zip(loaded.parameters(), attached.parameters(), strict=True))


ROUTER, EXPERT = (
    "language_model.layers.0.mlp.router.weight",
    "language_model.layers.1.mlp.up_proj.experts.1.lora_A.weight",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(EXPERT), f"missing: {EXPERT}$"),
        (lambda t: t.update(lm_head=torch.zeros(1)), "unexpected: lm_head$"),
        (
            lambda t: t.update({ROUTER: torch.zeros(3, 32)}),
            rf"wrong shape: {ROUTER} is \(3, 32\) but must be \(2, 32\)$",
        ),
        (lambda t: [t.pop(name) for name in list(t)], "missing: .* and 13 more$"),
    ],
)
def test_file_that_does_not_fit_is_refused_naming_the_tensor(
    saved: Path, build_llava: Any, change: Any, message: str
) -> None:
    tensors = load_file(saved / TENSORS)
    change(tensors)
    save_file(tensors, saved / TENSORS)
    model = build_llava()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(UserError, match=message) as info:
        load_adapter(model, saved)
    assert str(saved) in str(info.value) and "\n" not in str(info.value)
    assert [name for name, _ in model.named_modules()] == names


def test_loose_loading_takes_what_fits_by_name_but_never_by_shape(build_llama: Any) -> None:
    attached = attach(build_llama(), Lora(r=2))
    name = "layers.0.mlp.up_proj.lora_A.weight"
    attached.load_state_dict({name: torch.ones(2, 32), "other": torch.ones(1)}, strict=False)
    assert torch.equal(attached.named_parameters()["model.layers.0.mlp.up_proj.lora_A"], torch.ones(2, 32))
    with pytest.raises(UserError, match="wrong shape"):
        attached.load_state_dict({name: torch.ones(32, 2)}, strict=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(method="mixture"), "method 'mixture'; known are llava_mole, .*none and PEFT's LORA"),
        (lambda s: s.pop("method"), "method None"),
        (lambda s: s.update(format_version=2), "format_version 2"),
        (lambda s: s.pop("router"), r"missing \['router'\]"),
        (lambda s: s.update(colour=1), r"unknown \['colour'\]"),
        (lambda s: s.update(router="soft"), "soft"),
        (lambda s: s.update(target_modules=["c_attn"], expert_modules=["c_attn"]), "c_attn"),
    ],
)
def test_settings_that_are_not_understood_are_refused(saved: Path, build_llava: Any, change: Any, message: str) -> None:
    settings = json.loads((saved / CONFIG).read_text())
    change(settings)
    (saved / CONFIG).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        load_adapter(build_llava(), saved)


def test_folder_that_is_no_adapter_is_refused(saved: Path, build_llava: Any, tmp_path_factory: Any) -> None:
    model = build_llava()
    with pytest.raises(UserError, match="not an adapter folder"):
        load_adapter(model, tmp_path_factory.mktemp("empty"))
    with pytest.raises(UserError, match="not an adapter folder"):
        load_adapter(model, saved / "missing")
    with pytest.raises(UserError, match="not an adapter folder"):
        load_adapter(model, saved / CONFIG)
    (saved / TENSORS).write_bytes((saved / TENSORS).read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load_adapter(model, saved)
    (saved / TENSORS).rename(saved / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load_adapter(model, saved)
    for text in ("{", "[1]"):
        (saved / CONFIG).write_text(text)
        with pytest.raises(UserError, match="JSON"):
            load_adapter(model, saved)


def test_second_adapter_is_refused(build_llama: Any) -> None:
    model = build_llama()
    attached = attach(model, Lora(r=2))
    with pytest.raises(ValueError, match="adapter already"):
        attach(model, Lora(r=2))
    attached.detach()
    attach(model, Lora(r=2))


def test_only_wrapped_linears_stop_training(build_llama: Any) -> None:
    model = build_llama().requires_grad_(True)
    attached = attach(model, Lora(r=2, target_modules=["q_proj"]))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"model.layers.{i}.self_attn.q_proj.base.weight" for i in range(2)}
    assert all(parameter.requires_grad for parameter in attached.parameters())


def test_no_adapter_leaves_the_model_untouched(build_llama: Any, tmp_path: Path) -> None:
    model = build_llama()
    names = [name for name, _ in model.named_modules()]
    attached = attach(model, NoAdapter())
    assert [name for name, _ in model.named_modules()] == names
    assert attached.parameters() == [] and attached.num_parameters == 0 and attached.load_balance_coef == 0.0
    assert attached.auxiliary_loss() == 0 and attached.routings() == {}
    assert attached.base_state_dict().keys() == model.state_dict().keys()
    attached.save(tmp_path)
    assert load_adapter(model, tmp_path).config == NoAdapter()


def test_asking_for_sums_of_a_step_where_there_are_none_is_refused_without_assertions(build_llama: Any) -> None:
    attached = attach(model := build_llama(), LlavaMole(num_experts=2, r=2))
    with pytest.raises(ValueError, match="call the whole block"):
        model.model.layers[0].mlp.up_proj(torch.zeros(1, 2, 32))
    model(input_ids=torch.arange(1, 5)[None])
    with pytest.raises(ValueError, match="see balances_by_step"):
        attached.balance_totals()
    with pytest.raises(ValueError, match="see balances_by_step"):
        attached.auxiliary_loss(totals=torch.zeros(3))
