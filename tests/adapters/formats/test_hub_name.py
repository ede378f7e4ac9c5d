"""What may stand in a file as a base's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from llava_moe.adapters import LlavaMole, Lora, Method, attach
from llava_moe.adapters.formats.hub_name import hub_id


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
        ("gpt2", "gpt2"),
        ("/data/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/8c85e9a4d626", "llava-hf/llava-1.5-7b-hf"),
        ("C:\\hub\\models--acme--tiny\\snapshots\\01ab", "acme/tiny"),
        ("/home/anna/llava", None),
        ("~/llava", None),
        ("./llava", None),
        ("../llava", None),
        ("bases/vicuna/7b", None),
        ("C:\\models\\llava", None),
        ("embedded:language_model", None),
        ("here", None),
        ("here/inside", None),
        ("", None),
        (None, None),
    ],
)
def test_a_hub_id_is_a_name_and_a_folder_is_none(
    reference: str | None, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id(reference) == name


@pytest.mark.parametrize("config", [Lora(r=2), LlavaMole(num_experts=2, r=2)], ids=["peft", "own"])
def test_an_adapter_is_saved_with_the_hub_id_of_its_base_and_never_with_its_place(
    config: Method, tmp_path: Path
) -> None:
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))
    attached = attach(model, config)
    for name, expected in (("acme/llama", "acme/llama"), (str(tmp_path), None)):
        model.name_or_path = name
        attached.save(tmp_path / "it")
        text = (tmp_path / "it" / "adapter_config.json").read_text()
        settings = json.loads(text)
        found = settings["base"]["name"] if "base" in settings else settings["base_model_name_or_path"]
        assert found == expected and str(tmp_path) not in text
