"""LLaVA folders with other towers and language models compute what Hugging Face computes, or are told in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from llava_moe.assemble import open_checkpoint
from llava_moe.data.conversation import USER, Turn
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.template import Rendered
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import answer_questions, iterate_answers
from llava_moe.model import (
    FromCheckpoint,
    FromShape,
    build_base,
    build_base_without_weights,
    packing_arguments,
    read_base,
)
from tests.model.tiny_checkpoints import (
    HALF,
    SIZE,
    SQUARE,
    TEXT,
    VISION,
    clip_processor,
    llava_processor,
    rewrite,
    siglip_processor,
    write_llava,
)

CPU = torch.device("cpu")
PROMPT = "USER: <image>\nWhat colour is the square? ASSISTANT:"


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@torch.no_grad()
def theirs(folder: Path, image: Image.Image) -> dict[str, torch.Tensor]:
    """What Hugging Face alone makes of an image and a prompt: tokens, pixels and logits."""
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = dict(processor(images=image, text=PROMPT, return_tensors="pt"))
    return {**inputs, "logits": model(**inputs).logits[0]}


@torch.no_grad()
def ours(folder: Path, image: Image.Image) -> dict[str, torch.Tensor]:
    assembled = open_checkpoint(str(folder), "fp32", CPU)
    encoder, model = assembled.encoder, assembled.model
    ids = torch.from_numpy(encoder.encode_written(Rendered(PROMPT, ())))[None]
    transform = encoder.transform
    assert isinstance(transform, ImageTransform)
    pixels = transform.normalize(torch.from_numpy(transform(image))[None])
    return {"input_ids": ids, "pixel_values": pixels, "logits": model(input_ids=ids, pixel_values=pixels).logits[0]}


def compare(folder: Path) -> None:
    for size in ((SIZE, SIZE), (61, 30), (20, 47)):
        image = picture(*size)
        left, right = ours(folder, image), theirs(folder, image)
        assert left["input_ids"].tolist() == right["input_ids"].tolist()
        assert (left["pixel_values"] - right["pixel_values"]).abs().max() < 1e-5
        assert (left["logits"] - right["logits"]).abs().max() < 1e-4 * right["logits"].abs().max()


PROCESSORS: dict[str, Any] = {
    "padded": llava_processor(do_pad=True),
    "padded in another colour": llava_processor(do_pad=True, image_mean=[0.1, 0.5, 0.9], image_std=[0.3, 0.2, 0.1]),
    "cropped, by LLaVA's": llava_processor(do_pad=False),
    "cropped, by CLIP's": clip_processor(image_mean=[0.2, 0.3, 0.4]),
    "resized on both sides": siglip_processor(),
    "resized, by CLIP's": clip_processor(size=SQUARE, do_center_crop=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_and_logits_equal_hugging_faces_for_each_image_processor(
    name: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder, image_processor=PROCESSORS[name])
    compare(tmp_path)


@pytest.mark.parametrize(
    ("tower", "settings", "num_tokens"),
    [
        ("siglip", {}, 9),
        ("siglip", {"vision_feature_layer": -2}, 9),
        ("clip", {"vision_feature_select_strategy": "full"}, 10),
        ("clip", {"vision_feature_layer": [-2, 1]}, 9),
        ("clip", {"vision_feature_layer": 2}, 9),
        ("clip", {"multimodal_projector_bias": False, "projector_hidden_act": "relu"}, 9),
    ],
)
def test_logits_equal_hugging_faces_for_each_tower(
    tower: str, settings: dict[str, Any], num_tokens: int, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder, tower=tower, **settings)
    assert read_base(FromCheckpoint(str(tmp_path))).num_image_tokens == num_tokens
    compare(tmp_path)


def test_another_size_of_tower_has_another_number_of_tokens(tokenizer_folder: Path, tmp_path: Path) -> None:
    side = {"height": 40, "width": 40}
    processor = llava_processor(size={"shortest_edge": 40}, crop_size=side, do_pad=True)
    numbers = {"image_size": 40, "patch_size": 10}
    write_llava(tmp_path, tokenizer_folder, image_processor=processor, vision=numbers)
    facts = read_base(FromCheckpoint(str(tmp_path)))
    assert (facts.image_size, facts.num_image_tokens) == (40, 16)
    compare(tmp_path)


@pytest.mark.parametrize("language", ["mistral", "qwen2", "phi3"])
def test_logits_equal_hugging_faces_for_each_language_model(
    language: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder, language=language)
    compare(tmp_path)


@pytest.mark.parametrize("window", [6, None])
def test_packed_rows_of_a_model_with_a_sliding_window_equal_their_examples_alone(
    window: int | None, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder, language="mistral", text={"sliding_window": window})
    model = open_checkpoint(str(tmp_path), "fp32", CPU).model
    lengths = (30, 5, 22)
    examples = [torch.randint(5, 400, (length,)) for length in lengths]
    row = {
        "input_ids": torch.cat(examples)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        **packing_arguments(lengths, CPU),
    }
    whole = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = torch.cat([whole(input_ids=one[None], use_cache=False).logits[0] for one in examples])
        packed = model(**row, use_cache=False).logits[0]
    assert (packed - expected).abs().max() < 1e-4


def test_questions_about_one_image_are_answered_alike_together_and_alone_by_a_model_with_a_sliding_window(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path / "model", tokenizer_folder, language="mistral", text={"sliding_window": 6})
    picture(30, 20).save(tmp_path / "a.png")
    assembled = open_checkpoint(str(tmp_path / "model"), "fp32", CPU)
    texts = ("What colour is the square?", "How many bars are shown?", "Is it small?")
    questions = [
        Question(f"q{number}", (str(tmp_path / "a.png"),), text, ("x",), "", "", True, 10)
        for number, text in enumerate(texts)
    ]

    def answers(asked: list[Question]) -> list[str]:
        batches = iterate_answers(assembled.model, assembled.encoder, asked, shares_prefix=True)
        return [one.text for one in sorted((one for batch in batches for one in batch), key=lambda one: one.index)]

    assert answers(questions) == [text for question in questions for text in answers([question])]


@pytest.mark.parametrize("tied", [False, True])
def test_a_siglip_folder_is_planned_with_tensors_that_hold_nothing(
    tied: bool, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder, tower="siglip", text={"tie_word_embeddings": tied})
    whole = build_base(FromCheckpoint(str(tmp_path)), torch.float32).model
    with FakeTensorMode():
        hollow = build_base_without_weights(FromCheckpoint(str(tmp_path)), torch.float32, "cpu").model
    shapes = {name: tuple(tensor.shape) for name, tensor in whole.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in hollow.state_dict().items()} == shapes
    assert (hollow.lm_head.weight is hollow.get_input_embeddings().weight) == tied
    assert len([*hollow.parameters()]) == len([*whole.parameters()])


def test_a_siglip_folder_says_its_own_mean_and_standard_deviation(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_llava(tmp_path, tokenizer_folder, tower="siglip")
    facts = read_base(FromCheckpoint(str(tmp_path)))
    assert (list(facts.image_mean), list(facts.image_std), facts.image_mode) == (HALF, HALF, "resize")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"do_resize": False}, "says do_resize=False"),
        ({"do_normalize": False}, "says do_normalize=False"),
        ({"do_rescale": False}, "says do_rescale=False"),
        ({"rescale_factor": 0.5}, "says rescale_factor=0.5"),
        ({"resample": 2}, "says resample=2"),
        ({"image_mean": [0.5]}, "says image_mean="),
        ({"image_mean": "grey"}, "image processor of"),
        ({"image_std": [0.5, 0.0, 0.5]}, "says image_std="),
        ({"size": {"shortest_edge": 30}}, f"where {SIZE} x {SIZE}, which its vision tower sees"),
        ({"crop_size": {"height": 30, "width": 20}}, f"where {SIZE} x {SIZE}, which its vision tower sees"),
        ({"size": SQUARE | {"width": 20}}, f"where {SIZE} x {SIZE}, which its vision tower sees"),
        ({"size": "large"}, "cannot be read"),
        ({"do_center_crop": False, "do_pad": False}, "says do_center_crop=false"),
        ({"image_processor_type": "Dinov3ImageProcessor"}, "is a Dinov3ImageProcessor"),
        ({"image_processor_type": 7}, "is a 7"),
    ],
)
def test_an_image_processor_that_cannot_be_followed_is_told(
    changes: dict[str, Any], told: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    settings["image_processor"] |= changes
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    refusal = refused(tmp_path)
    assert told in refusal and str(tmp_path) in refusal


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        build_base(FromCheckpoint(str(folder)), torch.float32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("part", "kind", "told"),
    [
        ("vision_config", "dinov2", "a vision tower of type dinov2: supported are clip_vision_model, siglip_vision"),
        ("vision_config", "pixtral", "a vision tower of type pixtral"),
        ("text_config", "opt", "a language model of type opt: supported are llama, mistral"),
        ("text_config", "gemma2", "a language model of type gemma2"),
        ("text_config", "gemma", "a language model of type gemma: supported are"),
        ("text_config", "no_such_model", "cannot be loaded"),
    ],
)
def test_another_part_is_told_with_what_is_supported(
    part: str, kind: str, told: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder)
    rewrite(tmp_path / "config.json", **{part: {"model_type": kind}})
    assert told in refused(tmp_path)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu"}, "of the original LLaVA code"),
        ({"model_type": "llava_mistral"}, "of the original LLaVA code"),
        ({"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14"}, "of the original LLaVA code"),
        ({"model_type": "llava_next"}, "of type llava_next, which sees an image in another way"),
        ({"model_type": "llava_onevision"}, "of type llava_onevision, which sees an image in another way"),
        ({"model_type": "llama"}, "of type llama, where one of type llava is needed"),
        ({}, "of type None, where one of type llava is needed"),
        ({"model_type": ["llava"]}, "of type ['llava']"),
        ({"model_type": "llava", "vision_config": 3}, "cannot be loaded"),
        ({"model_type": "llava", "vision_config": {}, "text_config": []}, "cannot be loaded"),
    ],
)
def test_another_kind_of_folder_is_told(config: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert told in refused(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vision_feature_layer": -9}, "vision_feature_layer=-9, but its tower has the hidden states -4 to 3"),
        ({"vision_feature_layer": 4}, "vision_feature_layer=4, but"),
        ({"image_token_index": 5}, "no <image> where the model looks for one (token 5)"),
        ({"image_token_index": 9999}, "image_token_index=9999 of its config.json is no row of its table of 640"),
    ],
)
def test_numbers_of_config_json_that_do_not_fit_are_told(
    changes: dict[str, Any], told: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder)
    rewrite(tmp_path / "config.json", **changes)
    assert told in refused(tmp_path)


def strip_tokens(folder: Path, *tokens: str) -> None:
    """Take added tokens out of a folder's tokenizer."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [one for one in tokenizer["added_tokens"] if one["content"] not in tokens]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in settings.items() if value not in tokens}
    kept.pop("added_tokens_decoder", None)
    kept.pop("extra_special_tokens", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))


def test_a_tokenizer_without_a_padding_token_serves_where_the_table_has_no_row_for_one(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    image_token = len(AutoTokenizer.from_pretrained(tokenizer_folder))
    write_llava(tmp_path, tokenizer_folder, text={"vocab_size": image_token + 1, "pad_token_id": None})
    strip_tokens(tmp_path, "<pad>")
    assembled = open_checkpoint(str(tmp_path), "fp32", CPU)
    encoder, model = assembled.encoder, assembled.model
    assert encoder.pad_token_id == encoder.tokenizer.unk_token_id
    hole = torch.from_numpy(encoder.placeholder_example(5, 0).input_ids)[None]
    assert torch.isfinite(model(input_ids=hole).logits).all()
    picture(30, 20).save(tmp_path / "a.png")
    texts = ("Is it small?", "What colour is the square, and how many bars are shown?")
    questions = [
        Question(f"q{number}", (str(tmp_path / "a.png"),), text, ("x",), "", "", True, 10)
        for number, text in enumerate(texts)
    ]
    assert answer_questions(model, encoder, questions) == [
        text for question in questions for text in answer_questions(model, encoder, [question])
    ]


def test_a_tokenizer_without_the_image_token_serves_where_the_next_number_is_the_models(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder)
    strip_tokens(tmp_path, "<image>", "<pad>")
    assert open_checkpoint(str(tmp_path), "fp32", CPU).encoder.image_token_id == 465
    rewrite(tmp_path / "config.json", image_token_index=470)
    assert "its tokenizer has no <image> where the model looks for one (token 470)" in refused(tmp_path)


@pytest.mark.parametrize("pad", ["</s>", "<unk>", "<s>"])
def test_a_padding_token_that_has_another_use_changes_no_answer(
    pad: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    write_llava(tmp_path, tokenizer_folder)
    picture(30, 20).save(tmp_path / "a.png")
    texts = ("Is it small?", "What colour is the square, and how many bars are shown?")
    questions = [
        Question(f"q{number}", (str(tmp_path / "a.png"),), text, ("x",), "", "", True, 10)
        for number, text in enumerate(texts)
    ]
    found = []
    for token in ("<pad>", pad):
        rewrite(tmp_path / "tokenizer_config.json", pad_token=token)
        rewrite(tmp_path / "config.json", pad_token_id=7)
        assembled = open_checkpoint(str(tmp_path), "fp32", CPU)
        assert assembled.encoder.tokenizer.pad_token == token
        found.append(answer_questions(assembled.model, assembled.encoder, questions))
    assert found[0] == found[1]


def test_a_table_with_fewer_rows_than_the_tokenizer_has_tokens_is_told(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_llava(tmp_path, tokenizer_folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(300)])
    tokenizer.save_pretrained(tmp_path)
    assert "its table has 640 rows, and its tokenizer numbers '<extra_173>' 640" in refused(tmp_path)
    shape = FromShape(VISION, TEXT | {"vocab_size": 300}, str(tokenizer_folder))
    with pytest.raises(UserError, match="its table has 300 rows, and its tokenizer numbers"):
        build_base(shape, torch.float32)


def test_weights_that_are_missing_are_told_and_never_drawn_at_random(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_llava(tmp_path, tokenizer_folder)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = [name for name in tensors if "projector" in name]
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    told = refused(tmp_path)
    assert "lacks the weights" in told and f"and {len(gone) - 1} more" in told


def test_a_siglip_folder_without_an_image_processor_is_told_and_a_clip_folder_pads(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    for tower in ("siglip", "clip"):
        write_llava(tmp_path / tower, tokenizer_folder, tower=tower)
        (tmp_path / tower / "processor_config.json").unlink()
    assert "has no image processor" in refused(tmp_path / "siglip")
    assert open_checkpoint(str(tmp_path / "clip"), "fp32", CPU).encoder.transform.mode == "pad"


def test_a_folder_without_chat_template_is_asked_in_llavas_own_format(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_llava(tmp_path, tokenizer_folder)
    template = open_checkpoint(str(tmp_path), "fp32", CPU).encoder.template
    assert template.kind == "v1" and template.prompt([Turn(USER, "Hi")]).endswith("USER: Hi ASSISTANT:")
