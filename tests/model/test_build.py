"""The assembled model is Hugging Face's own LLaVA, number for number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from llava_moe.errors import UserError
from llava_moe.model import BaseModel, FromCheckpoint, FromParts, FromShape, build_base
from llava_moe.model.attention import choose_attention, packing_arguments
from tests.tiny_models import write_parts


@pytest.fixture(scope="module")
def parts(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FromParts:
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(3)
    return FromParts(*write_parts(folder, tokenizer_folder))


def row_inputs(base: BaseModel, images: int = 2) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Three examples (two with an image, one of text only) as one packed row, and each by itself."""
    torch.manual_seed(1)
    pixels = torch.randn(images, 3, 24, 24)
    image = torch.full((9,), base.image_token_id)
    examples = [
        torch.cat([torch.tensor([1, 5, 6]), image, torch.tensor([7, 8, 9, 10])]),
        torch.tensor([1, 30, 31, 32, 33, 34]),
        torch.cat([torch.tensor([1]), image, torch.tensor([40, 41])]),
    ]
    lengths = tuple(len(example) for example in examples)
    row = {
        "input_ids": torch.cat(examples)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "pixel_values": pixels,
        **packing_arguments(lengths, torch.device("cpu")),
    }
    alone = [
        {"input_ids": examples[0][None], "pixel_values": pixels[:1]},
        {"input_ids": examples[1][None]},
        {"input_ids": examples[2][None], "pixel_values": pixels[1:]},
    ]
    return row, alone


def test_logits_equal_hugging_faces_own_on_the_same_checkpoint_packed_or_not(parts: FromParts, tmp_path: Path) -> None:
    base = build_base(parts, torch.float32)
    base.model.save_pretrained(tmp_path / "llava")
    base.tokenizer.save_pretrained(tmp_path / "llava")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava", dtype=torch.float32).eval()
    ours = build_base(FromCheckpoint(str(tmp_path / "llava")), torch.float32).model.eval()
    ours.set_attn_implementation({"text_config": choose_attention("auto", torch.device("cpu"), torch.float32).name})
    row, alone = row_inputs(base)
    with torch.no_grad():
        expected = torch.cat([theirs(**example, use_cache=False).logits[0] for example in alone])
        one_by_one = torch.cat([ours(**example, use_cache=False).logits[0] for example in alone])
        packed = ours(**row, use_cache=False).logits[0]
    assert (one_by_one - expected).abs().max() < 1e-5
    assert (packed - expected).abs().max() < 1e-5


def test_the_parts_weights_are_untouched_and_tokens_are_numbered_as_in_llava_hf(parts: FromParts) -> None:
    base = build_base(parts, torch.float32)
    tower = CLIPVisionModel.from_pretrained(parts.vision_tower)
    language = LlamaForCausalLM.from_pretrained(parts.language_model)
    for name, value in tower.state_dict().items():
        assert base.model.model.vision_tower.state_dict()[name].equal(value), name
    vocabulary = language.config.vocab_size
    embeddings, before = base.model.get_input_embeddings().weight, language.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor) and isinstance(before, torch.Tensor)
    assert embeddings[:vocabulary].equal(before)
    assert base.image_token_id == vocabulary
    assert base.tokenizer.pad_token_id == vocabulary + 1
    assert embeddings.shape[0] % 64 == 0
    assert base.num_image_tokens == 9
    assert base.model.config.vision_feature_layer == -2
    text_config = base.model.config.text_config
    assert isinstance(text_config, LlamaConfig) and not text_config.use_cache


def test_the_projector_starts_from_the_seed(parts: FromParts) -> None:
    first, same, other = (build_base(parts, torch.float32, seed) for seed in (0, 0, 1))
    weights = [base.model.model.multi_modal_projector.linear_1.weight for base in (first, same, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_patch_features_are_those_of_the_layer_before_the_last_without_cls(parts: FromParts) -> None:
    model = build_base(parts, torch.float32).model.eval()
    pixels = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        projector = model.model.multi_modal_projector
        expected = projector.linear_2(torch.nn.functional.gelu(projector.linear_1(hidden)))
        found = torch.stack(tuple(model.get_image_features(pixels).pooler_output))
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("vision", "language", "said"),
    [("clip", "clip", "tokenizer .* cannot be loaded|is of type"), ("llama", "llama", "is of type llama"),
     ("nowhere", "llama", "nowhere cannot be loaded")],
)  # fmt: skip
def test_a_checkpoint_of_the_wrong_kind_is_refused(parts: FromParts, vision: str, language: str, said: str) -> None:
    folder = Path(parts.vision_tower).parent
    with pytest.raises(UserError, match=said):
        build_base(FromParts(str(folder / vision), str(folder / language)), torch.float32)


def test_a_7b_of_random_shape_is_llava_1_5s_on_the_meta_device(tokenizer_folder: Path) -> None:
    import yaml

    from llava_moe.config.config_folder import config_folder

    shape = yaml.safe_load((config_folder() / "model" / "random_7b.yaml").read_text())["architecture"]
    fields = {key: value for key, value in shape.items() if key not in ("_target_", "tokenizer")}
    with torch.device("meta"):
        base = build_base(FromShape(tokenizer=str(tokenizer_folder), **fields), torch.bfloat16)
    assert base.num_image_tokens == 576
    projector = sum(p.numel() for p in base.model.model.multi_modal_projector.parameters())
    assert round(projector / 1e6, 2) == 20.98
    assert sum(p.numel() for p in base.model.parameters()) == pytest.approx(7.06e9, rel=0.01)
