"""``modules_to_save`` against PEFT: heads and embeddings, tied or not, and the projector."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from llava_moe.adapters.load import load_adapter, load_adapter_with_modules
from llava_moe.errors import UserError
from tests.adapters.tiny_decoders import CLIP, FAMILIES
from tests.tiny_models import IMAGE_TOKEN, TEXT

IN_LANGUAGE_MODEL = r"(model\.layers|.*language_model).*\.(q_proj|up_proj)"


def build(kind: str, is_tied: bool) -> Any:
    torch.manual_seed(0)
    text = LlamaConfig(**TEXT, tie_word_embeddings=is_tied)
    if kind == "llama":
        return LlamaForCausalLM(text).eval().requires_grad_(False)
    config = LlavaConfig(
        vision_config=CLIP, text_config=text, image_token_index=IMAGE_TOKEN, tie_word_embeddings=is_tied
    )
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False)


def inputs(kind: str) -> dict[str, Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(1, 60, (2, 9))
    if kind == "llama":
        return {"input_ids": ids}
    ids[:, 1:5] = IMAGE_TOKEN
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 16, 16)}


def write(model: Any, folder: Path, **settings: Any) -> None:
    """What PEFT writes of a LoRA whose every own number is random."""
    peft = get_peft_model(model, LoraConfig(r=2, **{"target_modules": IN_LANGUAGE_MODEL} | settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens")):
                parameter.normal_(std=0.2)
    peft.save_pretrained(folder, save_embedding_layers=False)


OF_ANY = [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"], ["head"], ["norm"]]
OF_LLAVA = [*OF_ANY, ["multi_modal_projector"], ["multi_modal_projector", "lm_head"]]
CASES = [("llama", modules) for modules in OF_ANY] + [("llava", modules) for modules in OF_LLAVA]


@torch.no_grad()
@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("kind", "modules"), CASES, ids=[f"{kind}-{'-'.join(modules)}" for kind, modules in CASES])
def test_saved_modules_give_pefts_logits(kind: str, is_tied: bool, modules: list[str], tmp_path: Path) -> None:
    write(build(kind, is_tied), tmp_path, modules_to_save=modules)
    theirs = PeftModel.from_pretrained(build(kind, is_tied), tmp_path).eval()
    expected = theirs(**inputs(kind)).logits
    ours = build(kind, is_tied)
    before = ours(**inputs(kind)).logits
    attached = load_adapter_with_modules(ours, tmp_path)
    torch.testing.assert_close(ours(**inputs(kind)).logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-2)
    # Nor does the library tie again what was tied before, whatever it does with the model.
    attached.detach()
    bare = ours(**inputs(kind)).logits
    ours.tie_weights()
    assert torch.equal(ours(**inputs(kind)).logits, bare)
    ours.save_pretrained(tmp_path / "whole")
    again = type(ours).from_pretrained(tmp_path / "whole").eval()
    assert torch.equal(again(**inputs(kind)).logits, bare)


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"trainable_token_indices": [3, 5]}, "trainable_token_indices"),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, "ensure_weight_tying=True"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "such as lm_head, outside this model's language model"),
    ],
    ids=["tokens", "ensured", "embeddings", "head"],
)
def test_other_ways_to_train_the_table_are_refused(
    is_tied: bool, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    write(build("llama", is_tied), tmp_path, **settings)
    model = build("llama", is_tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for load in (load_adapter, load_adapter_with_modules):
        with pytest.raises(UserError) as info:
            load(model, tmp_path)
        assert "\n" not in str(info.value)
    assert told in str(info.value)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


EDITS = {
    "missing": lambda tensors: tensors.pop("base_model.model.lm_head.weight"),
    "shape": lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.zeros(3, 3)}),
    "strange": lambda tensors: tensors.update({"base_model.model.other.weight": torch.zeros(3, 3)}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_saved_modules_that_do_not_fit_leave_the_model_bare(edit: str, tmp_path: Path) -> None:
    write(build("llama", False), tmp_path, modules_to_save=["lm_head"])
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    EDITS[edit](tensors)
    save_file(tensors, path)
    model = build("llama", False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError):
        load_adapter_with_modules(model, tmp_path)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("modules", [[""], [3], "lm_head", ["a"] * 1000, {"lm_head": 1}])
def test_names_of_modules_that_are_none_are_one_line(modules: Any, tmp_path: Path) -> None:
    write(build("llama", False), tmp_path, modules_to_save=["lm_head"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": modules}))
    with pytest.raises(UserError, match="modules_to_save=") as info:
        load_adapter_with_modules(build("llama", False), tmp_path)
    assert "\n" not in str(info.value) and len(str(info.value)) < 400 + len(str(tmp_path))


# Names from before transformers 4.52, by what they are called today.
EARLIER = {
    "base_model.model.model.language_model.": "base_model.model.language_model.model.",
    "base_model.model.model.multi_modal_projector.": "base_model.model.multi_modal_projector.",
    "base_model.model.lm_head.": "base_model.model.language_model.lm_head.",
}


def rename_as_earlier(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        start = next(start for start in EARLIER if name.startswith(start))
        tensors[name.replace(start, EARLIER[start], 1)] = tensor
    save_file(tensors, path, metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


TARGETS = [
    ["q_proj", "up_proj"],
    r".*language_model.*\.(q_proj|up_proj)",
    r"language_model\.model\.layers\..*\.(q_proj|up_proj)",
    [
        f"language_model.model.layers.{layer}.{leaf}"
        for layer, leaf in itertools.product(range(2), ("self_attn.q_proj", "mlp.up_proj"))
    ],
]


@torch.no_grad()
@pytest.mark.parametrize("targets", TARGETS, ids=["ends", "expression", "earlier-expression", "earlier-names"])
def test_a_lora_with_earlier_names_is_the_one_with_todays(targets: Any, tmp_path: Path) -> None:
    write(build("llava", False), tmp_path)
    theirs = PeftModel.from_pretrained(build("llava", False), tmp_path).eval()
    expected = theirs(**inputs("llava")).logits
    excluded = {"exclude_modules": r".*vision_tower.*"} if targets == TARGETS[0] else {}
    rename_as_earlier(tmp_path, target_modules=targets, **excluded)
    if targets in TARGETS[:2]:  # PEFT looks for targets by today's names alone
        renamed = PeftModel.from_pretrained(build("llava", False), tmp_path).eval()
        assert torch.equal(renamed(**inputs("llava")).logits, expected)
    ours = build("llava", False)
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(ours(**inputs("llava")).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("modules", [["multi_modal_projector"], ["lm_head", "multi_modal_projector"], ["embed_tokens"]])
def test_saved_modules_with_earlier_names_are_those_with_todays(modules: list[str], tmp_path: Path) -> None:
    write(build("llava", False), tmp_path, modules_to_save=modules)
    theirs = PeftModel.from_pretrained(build("llava", False), tmp_path).eval()
    expected = theirs(**inputs("llava")).logits
    rename_as_earlier(tmp_path)
    ours = build("llava", False)
    load_adapter_with_modules(ours, tmp_path)
    torch.testing.assert_close(ours(**inputs("llava")).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_vision_tower_saved_whole_is_pefts(is_earlier: bool, tmp_path: Path) -> None:
    write(build("llava", False), tmp_path, modules_to_save=["vision_tower"])
    theirs = PeftModel.from_pretrained(build("llava", False), tmp_path).eval()
    expected = theirs(**inputs("llava")).logits
    if is_earlier:
        path = tmp_path / "adapter_model.safetensors"
        tower = ("base_model.model.model.vision_tower.", "base_model.model.vision_tower.vision_model.")
        tensors = {name.replace(*tower): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path)
    ours = build("llava", False)
    load_adapter_with_modules(ours, tmp_path)
    torch.testing.assert_close(ours(**inputs("llava")).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_lora_of_a_language_model_alone_is_none_of_a_vision_language_models(tmp_path: Path) -> None:
    write(build("llama", False), tmp_path)
    for model in (build("llava", False), next(one for one in FAMILIES if one.name == "qwen2_vl_text").build()):
        with pytest.raises(UserError, match="does not have"):
            load_adapter(model, tmp_path)


def test_a_tensor_under_both_names_is_refused(tmp_path: Path) -> None:
    write(build("llava", False), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "language_model" in name)
    twice = name.replace("model.language_model.", "language_model.model.", 1)
    assert twice != name and twice not in tensors
    save_file(tensors | {twice: tensors[name] + 1}, path)
    with pytest.raises(UserError) as info:
        load_adapter(build("llava", False), tmp_path)
    assert "language_model.model.layers" in str(info.value)
