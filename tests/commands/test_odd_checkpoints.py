"""A LLaVA folder with a SigLIP tower goes through every command; what is not supported is one line in each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from llava_moe.cli import run
from tests.model.tiny_checkpoints import HALF, rewrite, write_llava

Refused = Callable[..., str]


@pytest.fixture
def words(tiny_words: list[str]) -> list[str]:
    """Those of a tiny run, without its model."""
    return [word for word in tiny_words if not word.startswith("model")] + ["train.max_steps=2"]


def test_a_siglip_folder_is_planned_trained_composed_exported_scored_and_talked_to(
    words: list[str], tokenizer_folder: Path, own_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_llava(Path("siglip"), tokenizer_folder, tower="siglip")
    base, lora = "model.path=siglip", ["adapter=lora", "out=lora"]
    assert run(["plan", *words, base, "adapter=lora", "device=a100-80", "num_devices=1"]) == 0
    assert run(["train", *words, base, *lora]) == 0
    assert run(["compose", "experts=[lora,lora]", "method=mole", *words, base, "out=mole"]) == 0
    assert run(["export", "run=lora", "to=hf", "out=hf", "dtype=fp32"]) == 0
    assert run(["export", "run=lora", "to=peft", "out=peft", "dtype=fp32"]) == 0
    # Trained padded to a square in the tower's own grey, it is asked so.
    processor = AutoProcessor.from_pretrained("hf")
    assert processor.image_processor.do_pad and list(processor.image_processor.image_mean) == HALF
    assert processor.num_additional_image_tokens == 0
    capfd.readouterr()
    said = []
    asked = [f"image={own_data / '1.png'}", "prompt=What colour is the square?", "max_new_tokens=9", "dtype=fp32"]
    for model in (["run=lora"], ["model.path=hf"], ["model.path=siglip", "model.peft=peft"]):
        assert run(["chat", *model, *asked]) == 0
        said.append(capfd.readouterr().out)
    assert said[0].strip() and said == [said[0]] * 3
    assert run(["eval", base, "limit=1", "out=scores"]) == 0
    assert json.loads(Path("scores/eval/demo.json").read_text())["answered_by"]["images"] == "resize"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "llava_llama"}, "of the original LLaVA code"),
        ({"model_type": "llava_next"}, "of type llava_next"),
        ({"vision_config": {"model_type": "dinov2"}}, "a vision tower of type dinov2"),
        ({"text_config": {"model_type": "opt"}}, "a language model of type opt"),
    ],
)
def test_every_command_tells_an_unsupported_folder_in_one_line(
    config: dict[str, object], told: str, words: list[str], tokenizer_folder: Path, refused: Refused
) -> None:
    write_llava(Path("odd"), tokenizer_folder)
    rewrite(Path("odd/config.json"), **config)
    base = "model.path=odd"
    for command in (
        ["train", *words, base, "adapter=lora"],
        ["plan", *words, base, "adapter=lora"],
        ["data", "stats", *words, base],
        ["eval", base, "out=scores"],
        ["chat", base, "prompt=a"],
    ):
        line = refused(*command)
        assert told in line and "odd" in line, command


def test_a_run_whose_base_became_another_is_told_when_it_is_exported_or_composed(
    words: list[str], tokenizer_folder: Path, refused: Refused
) -> None:
    write_llava(Path("base"), tokenizer_folder)
    assert run(["train", *words, "model.path=base", "adapter=lora", "out=lora"]) == 0
    rewrite(Path("base/config.json"), vision_config={"model_type": "pixtral"})
    composed = ["compose", "experts=[lora,lora]", "method=mole", *words, "model.path=base"]
    for command in (["export", "run=lora", "to=hf", "out=hf"], composed, ["chat", "run=lora", "prompt=a"]):
        assert "a vision tower of type pixtral" in refused(*command)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff{", "cannot be read"),
        (b'{"eos_token_id": ', "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[2, 7]", "holds no JSON object"),
        (b'{"eos_token_id": "</s>"}', "eos_token_id=</s> is no token number"),
        (b'{"eos_token_id": [2, [7]]}', "eos_token_id=[2, [7]] is no token number"),
        (b'{"eos_token_id": [2, 7.0]}', "eos_token_id=[2, 7.0] is no token number"),
    ],
)
def test_end_tokens_that_cannot_be_read_are_told_and_not_left_out(
    content: bytes, told: str, tokenizer_folder: Path, refused: Refused, tmp_path: Path
) -> None:
    write_llava(tmp_path / "odd", tokenizer_folder)
    (tmp_path / "odd" / "generation_config.json").write_bytes(content)
    line = refused("chat", f"model.path={tmp_path / 'odd'}", "prompt=a")
    assert "generation_config.json" in line and told in line


def test_experts_are_not_composed_on_other_weights_of_the_same_name(
    words: list[str], tokenizer_folder: Path, refused: Refused
) -> None:
    model = write_llava(Path("base"), tokenizer_folder)
    words = [*words, "model.path=base"]
    assert run(["train", *words, "adapter=lora", "out=lora"]) == 0
    with torch.no_grad():
        model.model.language_model.norm.weight.mul_(1.5)
    model.save_pretrained("base")
    for method in ("mole", "linear"):
        line = refused("compose", "experts=[lora,lora]", f"method={method}", *words, f"out={method}")
        assert "lora was trained on another base (weights" in line and "than the one it would be opened on" in line
    assert "holds other weights" in refused("eval", "run=lora", "limit=1")
