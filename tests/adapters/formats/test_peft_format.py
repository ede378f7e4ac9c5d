"""Plain LoRA against PEFT itself: same arithmetic, same folder, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llava_moe.adapters import Lora, attach, load_adapter
from llava_moe.adapters.core.target_model import ALL_LINEARS
from llava_moe.errors import UserError

INSIDE = rf".*language_model.*\.({'|'.join(ALL_LINEARS)})"


@pytest.fixture(params=["llama", "llava"])
def build(request: pytest.FixtureRequest) -> Any:
    build_model = request.getfixturevalue(f"build_{request.param}")
    # fp64, so that equality means the same arithmetic whatever the order of its roundings.
    return lambda: build_model().double()


def sample(model: Any) -> dict[str, Any]:
    torch.manual_seed(3)
    ids = torch.randint(1, 60, (2, 9))
    if not hasattr(model.config, "vision_config"):
        return {"input_ids": ids}
    ids[:, 1:5] = 60
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}


def randomize(model: Any) -> None:
    """Random A and B, the same for ours and PEFT's: by order of the modules."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)


def targets(model: Any) -> Any:
    return INSIDE if hasattr(model.config, "vision_config") else list(ALL_LINEARS)


@torch.no_grad()
@pytest.mark.parametrize("use_rslora", [False, True])
def test_peft_reads_our_folder_as_it_stands(build: Any, tmp_path: Path, use_rslora: bool) -> None:
    model = build()
    attached = attach(model, Lora(r=4, lora_alpha=12, use_rslora=use_rslora))
    randomize(model)
    attached.save(tmp_path)
    theirs = PeftModel.from_pretrained(build(), tmp_path)
    inputs = sample(model)
    torch.testing.assert_close(theirs(**inputs).logits, model(**inputs).logits, atol=1e-11, rtol=1e-11)
    loaded = {name for name, _ in theirs.named_modules() if name.endswith("lora_A.default")}
    assert len(loaded) == 14 and not any("vision" in name for name in loaded)
    generate = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [60]}
    assert torch.equal(theirs.generate(**inputs, **generate), model.generate(**inputs, **generate))


@torch.no_grad()
@pytest.mark.parametrize("use_rslora", [False, True])
def test_we_read_a_folder_that_peft_wrote(build: Any, tmp_path: Path, use_rslora: bool) -> None:
    model = build()
    config = LoraConfig(r=4, lora_alpha=12, lora_dropout=0.1, use_rslora=use_rslora, target_modules=targets(model))
    theirs = get_peft_model(model, config).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours = build()
    attached = load_adapter(ours, tmp_path)
    inputs = sample(ours)
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, atol=1e-11, rtol=1e-11)
    assert isinstance(attached.config, Lora)
    assert (attached.config.r, attached.config.lora_alpha, attached.config.lora_dropout) == (4, 12, 0.1)


def test_training_step_equals_peft_dropout_included(build: Any) -> None:
    ours = build()
    # The plain core draws PEFT's random numbers; the lean one names its masks by seeds of its own.
    attach(ours, Lora(r=4, lora_alpha=8, lora_dropout=0.2), core="autograd")
    theirs = build()
    theirs = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2, target_modules=targets(theirs)))
    gradients = []
    for model in (ours, theirs):
        model.train()
        randomize(model)
        inputs = sample(ours)
        torch.manual_seed(5)
        model(**inputs).logits.square().mean().backward()
        gradients.append([p.grad for name, p in model.named_parameters() if "lora_" in name])
    assert len(gradients[0]) == len(gradients[1]) == 28
    for mine, yours in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-12, rtol=1e-10)


def test_round_trip_keeps_the_settings_and_tensors(build: Any, tmp_path: Path) -> None:
    attached = attach(build(), Lora(r=3, lora_alpha=5, lora_dropout=0.25))
    attached.save(tmp_path)
    loaded = load_adapter(build(), tmp_path)
    assert loaded.state_dict().keys() == attached.state_dict().keys()
    assert isinstance(loaded.config, Lora)
    assert (loaded.config.r, loaded.config.lora_alpha, loaded.config.lora_dropout) == (3, 5, 0.25)


def test_excluded_modules_are_honored(build_llava: Any, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], exclude_modules=r".*(vision_tower|layers\.1).*")
    get_peft_model(build_llava(), config).save_pretrained(tmp_path)
    loaded = load_adapter(build_llava(), tmp_path).config
    assert isinstance(loaded, Lora)
    assert loaded.target_modules == tuple(
        f"model.language_model.layers.0.{name}" for name in ("self_attn.q_proj", "mlp.up_proj")
    )


def test_adapter_on_the_vision_tower_is_refused_by_its_tensors(build_llava: Any, tmp_path: Path) -> None:
    get_peft_model(build_llava(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"adapts 2 layers, such as model\.vision_tower\.\S+q_proj, outside this model's language model"
    ):
        load_adapter(build_llava(), tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"bias": "all"}, "bias='all'"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"use_dora": True, "modules_to_save": ["lm_head"]}, "modules_to_save=.*, use_dora=True"),
    ],
)
def test_feature_that_is_not_read_is_refused_by_name(
    build_llama: Any, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    model = get_peft_model(build_llama(), LoraConfig(r=4, target_modules=["q_proj"], **options))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(UserError, match=named) as info:
        load_adapter(build_llama(), tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"peft_type": "IA3"}, "type IA3"), ({"r": None}, "lacks r"), ({"target_modules": ["nothing"]}, "nothing")],
)
def test_settings_that_are_no_lora_are_refused(
    build_llama: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    attach(build_llama(), Lora(r=2)).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_adapter(build_llama(), tmp_path)
