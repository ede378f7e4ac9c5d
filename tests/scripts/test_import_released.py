"""A release on disk becomes a run's folder that everything else takes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor, LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from llava_moe import load_run
from llava_moe.cli import run
from llava_moe.model import FromShape, build_base

IDS = torch.tensor([[1, 5, 9, 2, 44, 8, 31]])
WIDTH, VISION = 64, 32


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "import_released.py"
    spec = importlib.util.spec_from_file_location("import_released", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def release(words: list[str], folder: Path, script: ModuleType, r: int = 2) -> Any:
    """A LLaVA LoRA folder for the model that ``words`` name, and the model under PEFT that wrote it."""
    from llava_moe.adapters import NoAdapter
    from llava_moe.adapters.released import Released
    from llava_moe.assemble import model_spec_of
    from llava_moe.run_config import RunConfig

    plain = script.configuration(Released(NoAdapter(), {}, {}, {}), words)
    architecture = model_spec_of(RunConfig.of(plain)).architecture
    assert isinstance(architecture, FromShape)
    llava = build_base(architecture, torch.float32).model
    assert isinstance(llava.config.text_config, LlamaConfig)
    language = LlamaForCausalLM(llava.config.text_config)
    language.model, language.lm_head = llava.model.language_model, llava.lm_head
    theirs = get_peft_model(language, LoraConfig(r=r, lora_alpha=4, target_modules=["q_proj", "down_proj"])).eval()
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(folder)
    shapes = {"0.weight": (WIDTH, VISION), "0.bias": (WIDTH,), "2.weight": (WIDTH, WIDTH), "2.bias": (WIDTH,)}
    projector = {f"base_model.model.model.mm_projector.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save(projector, folder / "non_lora_trainables.bin")
    return theirs


@torch.no_grad()
def test_imported_release_is_a_run_that_loads_and_exports(
    script: ModuleType, tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = release(tiny_words, tmp_path / "release", script)
    assert script.main(["llava_lora", str(tmp_path / "release"), str(tmp_path / "run"), *tiny_words]) == 0
    model, _ = load_run(tmp_path / "run")
    expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)
    assert json.loads((tmp_path / "run" / "import.json").read_text()) == {"ignored": {}}
    assert run(["export", f"run={tmp_path / 'run'}", "to=hf", f"out={tmp_path / 'hf'}"]) == 0
    merged = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)
    AutoProcessor.from_pretrained(tmp_path / "hf")


def test_release_for_another_base_is_refused_in_one_line(
    script: ModuleType, tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release(tiny_words, tmp_path / "release", script)
    words = [*tiny_words, "model.architecture.text.hidden_size=32"]
    capsys.readouterr()
    assert script.main(["llava_lora", str(tmp_path / "release"), str(tmp_path / "run"), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()
