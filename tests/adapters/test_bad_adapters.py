"""Adapter folders that do not belong on a model: one line that says which base, which file, which tensor."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import LlavaMole, Lora, Method, attach, load_adapter
from llava_moe.errors import UserError
from tests.adapters.tiny_decoders import FAMILIES
from tests.tiny_models import TEXT

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
CONFIGS: dict[str, Method] = {"lora": Lora(r=2), "llava_mole": LlavaMole(r=2)}


def llama(**shape: int) -> Any:
    return LlamaForCausalLM(LlamaConfig(**TEXT | shape)).eval()


def family(name: str) -> Any:
    return next(family for family in FAMILIES if family.name == name).build()


def refusal(model: Any, folder: Path) -> str:
    """The one line with which a folder is refused; the model stays as it was."""
    modules = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(UserError) as info:
        load_adapter(model, folder)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    line = str(info.value)
    assert line.startswith(str(folder)) and "\n" not in line and len(line) < 400 + len(str(folder))
    return line


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    settings = json.loads((folder / CONFIG).read_text())
    edit(settings)
    (folder / CONFIG).write_text(json.dumps(settings))
    return folder


@pytest.fixture(params=CONFIGS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    attach(llama(), CONFIGS[request.param]).save(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"hidden_size": 64}, "hidden size 32"),
        ({"num_hidden_layers": 1}, "layers 2"),
    ],
)
def test_another_base_is_told_by_what_it_is(saved: Path, shape: dict[str, int], told: str) -> None:
    line = refusal(llama(**shape), saved)
    there, here = line.split(", this model is ")
    assert "is an adapter of another base: it was trained on a model" in there and told in there
    (key, value) = next(iter(shape.items()))
    assert f"{key.removeprefix('num_hidden_').replace('_', ' ')} {value}" in here


def test_another_base_of_the_same_width_is_told_by_its_kind(tmp_path: Path) -> None:
    attach(family("qwen2"), LlavaMole(r=2)).save(tmp_path)
    line = refusal(llama(), tmp_path)
    assert "trained on a model (qwen2, hidden size 32, layers 2), this model is a model (llama, hidden" in line


def test_an_adapter_of_a_language_model_is_not_one_of_a_vision_language_model(saved: Path) -> None:
    line = refusal(family("llava"), saved)
    if json.loads((saved / CONFIG).read_text()).get("peft_type"):
        assert "adapts 14 layers, such as model.layers.0.mlp.down_proj, that this model, a model (llava" in line
    else:
        assert "trained on a model (llama, hidden size 32, layers 2), this model is a model (llava with llama" in line


def test_the_base_is_named_where_it_has_a_name(saved: Path) -> None:
    other = llama(hidden_size=64)
    other.name_or_path = "other/model"
    key = "base_model_name_or_path" if "peft_type" in json.loads((saved / CONFIG).read_text()) else "base"
    name = "lmsys/vicuna-7b-v1.5"
    change(saved, lambda s: s.update({key: name}) if key != "base" else s[key].update(name=name))
    assert "trained on lmsys/vicuna-7b-v1.5 (" in (line := refusal(other, saved)) and "model is other/model (" in line


def test_an_mlp_of_another_width_is_told_by_its_tensors(saved: Path) -> None:
    assert "wrong shape: " in refusal(llama(intermediate_size=48), saved)


def test_a_model_of_another_name_or_vocabulary_is_the_same_base(saved: Path) -> None:
    model = llama(vocab_size=128)
    model.name_or_path = "a/copy"
    load_adapter(model, saved)


def test_a_folder_without_a_record_of_its_base_loads(saved: Path) -> None:
    load_adapter(llama(), change(saved, lambda s: (s.pop("base", None), s.pop("base_model_name_or_path", None))))


def test_a_file_from_before_a_setting_was_there_means_its_default(tmp_path: Path) -> None:
    attach(llama(), LlavaMole(r=2)).save(tmp_path)
    change(tmp_path, lambda s: [s.pop(name) for name in (*LlavaMole.later_fields, "base")])
    assert load_adapter(llama(), tmp_path).config == LlavaMole(r=2)
    change(tmp_path, lambda s: s.pop("r"))
    assert "missing ['r'], unknown []" in refusal(llama(), tmp_path)


@pytest.mark.parametrize("base", [None, "llama", ["llama"], {"hidden_size": None}, {"colour": 1}])
def test_a_record_of_the_base_that_says_nothing_is_no_hindrance(base: Any, tmp_path: Path) -> None:
    attach(llama(), LlavaMole(r=2)).save(tmp_path)
    load_adapter(llama(), change(tmp_path, lambda s: s.update(base=base)))


def test_fewer_adapted_layers_are_no_other_base(tmp_path: Path) -> None:
    attach(llama(), Lora(r=2, target_modules=["model.layers.0.mlp.up_proj"])).save(tmp_path)
    assert len(load_adapter(llama(), tmp_path).parameters()) == 2


def test_a_peft_folder_that_also_adapts_the_vision_tower_is_refused(tmp_path: Path) -> None:
    get_peft_model(family("qwen2_vl"), LoraConfig(r=2, target_modules=["q_proj", "qkv"])).save_pretrained(tmp_path)
    line = refusal(family("qwen2_vl"), tmp_path)
    assert "adapts 2 layers, such as model.visual.blocks.0.attn.qkv, outside this model's language model" in line


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("targets", [["q_proj"], ["fc1", "up_proj"], ["linear_1", "up_proj"], "all-linear"])
def test_a_lora_on_the_tower_is_told_as_such_whatever_the_towers_size(
    targets: Any, layers: int, tmp_path: Path
) -> None:
    model = family("llava")
    config = copy.deepcopy(model.config)  # the families share one vision configuration
    config.vision_config.num_hidden_layers, config.vision_feature_layer = layers, -1
    model = type(model)(config)
    get_peft_model(model, LoraConfig(r=2, target_modules=targets)).save_pretrained(tmp_path)
    line = refusal(type(model)(config), tmp_path)
    assert "outside this model's language model, which alone is adapted" in line and "such as model." in line
    assert ("multi_modal_projector" if "linear_1" in targets else "vision_tower") in line or targets == "all-linear"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("r", "8"), ("r", None), ("r", 2.5), ("lora_dropout", "no"), ("target_modules", 3), ("r", [1])],
)
def test_a_setting_of_another_type_is_one_line(saved: Path, setting: str, value: Any) -> None:
    assert CONFIG in refusal(llama(), change(saved, lambda s: s.update({setting: value})))


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["c_attn"], "match no linear layer of LlamaModel"),
        ("q_proj[", "no regular expression"),
        ([], "match no linear"),
    ],
)
def test_targets_in_a_folder_that_say_nothing_are_refused(saved: Path, targets: Any, told: str) -> None:
    def edit(settings: dict[str, Any]) -> None:
        settings["target_modules"] = targets
        if "expert_modules" in settings:
            settings["expert_modules"] = targets

    assert told in refusal(llama(), change(saved, edit))


def test_a_target_pattern_that_reaches_the_vision_tower_is_refused(tmp_path: Path) -> None:
    attach(family("llava"), Lora(r=2, target_modules=["q_proj"])).save(tmp_path)
    line = refusal(family("llava"), change(tmp_path, lambda s: s.update(target_modules=r".*\.q_proj")))
    assert "also matches 2 layers outside the language model" in line


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t, name: t.pop(name), "missing: "),
        (lambda t, name: t.update({f"{name}.more": torch.zeros(2)}), "unexpected: "),
        (lambda t, name: t.update({name: t[name].T.contiguous()}), "wrong shape: "),
        (lambda t, name: t.update({name: torch.zeros(())}), "wrong shape: "),
        (lambda t, name: t.update({name: torch.zeros(0, 32)}), "wrong shape: "),
    ],
)
def test_a_tensor_that_does_not_belong_is_named(saved: Path, edit: Any, told: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(saved / TENSORS).items()}
    name = next(name for name in sorted(tensors) if "up_proj" in name and "lora_A" in name)
    edit(tensors, name)
    save_file(tensors, saved / TENSORS)
    line = refusal(llama(), saved)
    assert told in line and name.removeprefix("base_model.model.model.") in line


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(version: Any, tmp_path: Path) -> None:
    attach(llama(), LlavaMole(r=2)).save(tmp_path)
    line = refusal(llama(), change(tmp_path, lambda s: s.update(format_version=version)))
    assert f"format_version {version}; this program reads 1" in line


def test_a_pickle_beside_no_safetensors_is_told_to_be_converted(saved: Path) -> None:
    (saved / TENSORS).unlink()
    torch.save({}, saved / "adapter_model.bin")
    assert f"has no {TENSORS}; other formats, such as .bin, are not read" in refusal(llama(), saved)


def test_a_balance_loss_of_one_expert_is_refused_and_a_rank_above_the_width_is_not() -> None:
    with pytest.raises(UserError, match=r"load_balance_coef=0.1 has nothing to balance"):
        LlavaMole(num_experts=1, load_balance_coef=0.1)
    assert attach(llama(), Lora(r=100)).num_parameters == attach(llama(), Lora(r=1)).num_parameters * 100
