"""Settings of an adapter that somebody else wrote: one line within a second, from all that opens such folders."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole, attach, load_adapter
from llava_moe.adapters.formats.native_format import MOST_BYTES
from llava_moe.adapters.load import load_adapter_with_modules
from llava_moe.errors import UserError
from tests.tiny_models import TEXT

CONFIG = "adapter_config.json"
SLOW = r"(?:.|.|.)*[A-Z]"


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TEXT)).eval().requires_grad_(False)


def as_experts(model: Any, folder: Path) -> Any:
    return attach(model, Mole(experts=[str(folder), str(folder)]))


DOORS: dict[str, Callable[[Any, Path], Any]] = {
    "load_adapter": load_adapter,
    "with_modules": load_adapter_with_modules,
    "experts": as_experts,
}


def refusal(folder: Path, door: Callable[[Any, Path], Any] = load_adapter) -> str:
    """The one line with which a folder is refused, within a second; the model stays bare."""
    model = llama()
    modules = {name: id(module) for name, module in model.named_modules()}
    begin = time.process_time()
    with pytest.raises(UserError) as info:
        door(model, folder)
    assert time.process_time() - begin < 1
    assert {name: id(module) for name, module in model.named_modules()} == modules
    line = str(info.value)
    assert str(folder) in line or (door is as_experts and re.match(r"(experts|r)\b", line))
    assert "\n" not in line and "\x1b" not in line and len(line) < 600 + 2 * len(str(folder))
    return line


@pytest.fixture
def peft_folder(tmp_path: Path) -> Path:
    get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"])).save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, **values: Any) -> Path:
    settings = json.loads((folder / CONFIG).read_text()) | values
    (folder / CONFIG).write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"r":' * 100_000 + "1" + "}" * 100_000,
        '{"peft_type": "LORA", "r": ' + "9" * 5000 + "}",
        "[1, 2]",
        "\x00",
        "",
        '{"peft_type": "LORA", "r": 1,}',
        " " * (MOST_BYTES + 1),
    ],
    ids=["lists", "objects", "digits", "list", "zero", "empty", "comma", "huge"],
)
def test_a_file_that_is_no_settings(door: str, text: str, peft_folder: Path) -> None:
    (peft_folder / CONFIG).write_text(text)
    assert CONFIG in refusal(peft_folder, DOORS[door])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_modules", SLOW),
        ("exclude_modules", SLOW),
        ("rank_pattern", {SLOW: 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("layers_to_transform", 0),
        ("layers_to_transform", [0]),
        ("r", 2_000_000),
        ("r", 10**30),
        ("r", True),
        ("r", -1),
        ("r", 0),
        ("r", 2.0),
        ("r", "2"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", float("inf")),
        ("lora_alpha", 1e300),
        ("lora_alpha", 10**400),
        ("lora_alpha", -4),
        ("lora_alpha", False),
        ("lora_dropout", 1.5),
        ("lora_dropout", float("nan")),
        ("use_rslora", "no"),
        ("target_modules", ["q_proj"] * 1000 + [{"a": 1}]),
        ("target_modules", {"q_proj": 1}),
        ("peft_type", "IA3\nsecond line \x1b[2J"),
        ("bias", "lora_only"),
        ("bias", None),
        ("use_dora", True),
        ("use_qalora", True),
        ("arrow_config", {"top_k": 3}),
        ("velora_config", {"num_groups": 1}),
        ("megatron_config", {"a": 1}),
        ("init_lora_weights", "mica"),
        ("init_lora_weights", 1),
    ],
)
def test_a_value_that_cannot_be_or_is_not_read_is_named(door: str, name: str, value: Any, peft_folder: Path) -> None:
    line = refusal(change(peft_folder, **{name: value}), DOORS[door])
    assert name in line or "pattern" in line or "target" in line or "type" in line


@pytest.mark.parametrize("value", [1, 0, True, "on", [0], {"a": None}, 0.0])
def test_a_setting_that_is_not_known_is_refused_by_name_unless_it_is_off(value: Any, peft_folder: Path) -> None:
    assert "use_tomorrow=" in refusal(change(peft_folder, use_tomorrow=value))


def test_a_setting_of_a_strange_name_stays_on_one_line(peft_folder: Path) -> None:
    assert "\\n" in refusal(change(peft_folder, **{"a\nb\x1b[2J" + "c" * 10_000: "d" * 10_000}))


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_a_setting_that_is_not_known_and_off_changes_nothing(value: Any, peft_folder: Path) -> None:
    load_adapter(llama(), change(peft_folder, use_tomorrow=value))


@pytest.mark.parametrize(
    "harmless",
    [
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"loftq_config": {"loftq_bits": 4}},
        {"eva_config": {"rho": 2.0}},
        {"revision": "main", "peft_version": "9.9", "task_type": "CAUSAL_LM", "inference_mode": False},
        {"auto_mapping": {"base_model_class": "X", "unsloth_fixed": True}},
        {"qalora_group_size": 32, "megatron_core": "other"},
        {"layers_to_transform": [], "rank_pattern": None, "alpha_pattern": {}},
    ],
)
def test_what_does_not_change_the_result_is_no_hindrance(harmless: dict[str, Any], peft_folder: Path) -> None:
    plain, other = llama(), llama()
    load_adapter(plain, peft_folder)
    load_adapter(other, change(peft_folder, **harmless))
    ids = torch.arange(1, 10)[None]
    assert torch.equal(plain(input_ids=ids).logits, other(input_ids=ids).logits)


def own_folder(kind: str, folder: Path) -> Path:
    if kind == "mole":
        for name in "ab":
            attach(llama(), Lora(r=2)).save(folder / name)
        attach(llama(), Mole(experts=[str(folder / "a"), str(folder / "b")])).save(folder / "own")
    else:
        configs: dict[str, LlavaMole | MixLora] = {
            "llava_mole": LlavaMole(num_experts=3, r=2),
            "mixlora": MixLora(num_factors=4, r=2),
        }
        attach(llama(), configs[kind]).save(folder / "own")
    return folder / "own"


OWN = [
    ("llava_mole", "r", 2_000_000),
    ("llava_mole", "num_experts", 2_000_000),
    ("llava_mole", "num_experts", [2_000_000, 3]),
    ("llava_mole", "lora_alpha", 1e300),
    ("llava_mole", "target_modules", SLOW),
    ("llava_mole", "expert_modules", SLOW),
    ("llava_mole", "router", ["hard"]),
    ("llava_mole", "format_version", True),
    ("llava_mole", "num_experts", {"a": 1}),
    ("llava_mole", "tomorrow", 1),
    ("mixlora", "num_factors", 2_000_000),
    ("mixlora", "r", 2_000_000),
    ("mixlora", "target_modules", SLOW),
    ("mixlora", "lora_alpha", -1),
    ("mole", "experts", 3),
    ("mole", "experts", [{"name": "a"}]),
    ("mole", "granularity", 5),
    ("mole", "temperature", float("nan")),
    ("mole", "method", {"a": [[[]]]}),
]


OWN_IDS = [f"{kind}-{name}-{number}" for number, (kind, name, _) in enumerate(OWN)]


@pytest.mark.parametrize(("kind", "name", "value"), OWN, ids=OWN_IDS)
def test_our_own_format_is_read_as_carefully(kind: str, name: str, value: Any, tmp_path: Path) -> None:
    refusal(change(own_folder(kind, tmp_path), **{name: value}))


@pytest.mark.parametrize(
    "edit",
    [
        {"r": 2_000_000},
        {"r": True},
        {"r": "2"},
        {"scale": float("nan")},
        {"scale": None},
        {"targets": 3},
        {"targets": [3]},
        {"name": "a.b"},
        {"name": 3},
    ],
    ids=str,
)
def test_an_expert_in_our_own_file_is_read_as_carefully(edit: dict[str, Any], tmp_path: Path) -> None:
    folder = own_folder("mole", tmp_path)
    experts = json.loads((folder / CONFIG).read_text())["experts"]
    refusal(change(folder, experts=[experts[0] | edit, experts[1]]))


@pytest.mark.parametrize("name", ["model_type", "text_model_type", "name", "hidden_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [-1, 1.5, [], ["x"], {"a": 1}, "a\nb\x1b[2J", "x" * 5000, True])
def test_what_a_file_says_of_its_base_is_told_on_one_line_or_passed_over(name: str, value: Any, tmp_path: Path) -> None:
    folder = own_folder("mixlora", tmp_path)
    base = json.loads((folder / CONFIG).read_text())["base"]
    # With another base there is something to tell.
    refusal(change(folder, base=base | {"hidden_size": 7, name: value}))


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/mem", "/proc/self/environ", "/nowhere", "."])
@pytest.mark.parametrize("name", [CONFIG, "adapter_model.safetensors"])
def test_a_file_that_leads_elsewhere_is_named(name: str, target: str, peft_folder: Path) -> None:
    (peft_folder / name).unlink()
    (peft_folder / name).symlink_to(target)
    refusal(peft_folder)


@pytest.mark.parametrize("name", [CONFIG, "adapter_model.safetensors"])
def test_a_named_pipe_is_not_waited_for(name: str, peft_folder: Path) -> None:
    (peft_folder / name).unlink()
    os.mkfifo(peft_folder / name)
    refusal(peft_folder)
