"""The shipped base of the demo: it loads offline in true CLIP and Llama classes and is really trained."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerBase

DEMO = Path(__file__).resolve().parents[3] / "llava_moe" / "demo"
BASE = DEMO / "base"
HELD_OUT_SENTENCES = (
    "The animal is a large bird that lives near the water and eats fish.",
    "A house is a building in which people live.",
    "He went out of the city and came to the mountain with his people.",
)


@pytest.fixture(scope="module")
def tower() -> CLIPVisionModel:
    return CLIPVisionModel.from_pretrained(BASE / "vision_tower", dtype=torch.float32, local_files_only=True).eval()


@pytest.fixture(scope="module")
def language_model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(BASE / "language_model", dtype=torch.float32, local_files_only=True).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE / "language_model", local_files_only=True)


def shipped_pixels(num_per_domain: int) -> torch.Tensor:
    """The first pictures of each domain on a square canvas, CLIP-normalised: float32 [I, 3, 128, 128]."""
    processor = json.loads((BASE / "vision_tower" / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(processor[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    pixels = []
    for domain in ("general", "documents", "medical"):
        table = pq.read_table(DEMO / "images" / f"{domain}.parquet", columns=["images"])
        for row in range(0, table.num_rows, table.num_rows // num_per_domain):
            image = Image.open(io.BytesIO(table["images"][row].as_py()[0])).convert("RGB")
            side = max(image.size)
            canvas = Image.new("RGB", (side, side), tuple(int(255 * value) for value in processor["image_mean"]))
            canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            array = np.asarray(canvas.resize((128, 128), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            pixels.append((torch.from_numpy(array.copy()).float() / 255 - mean) / std)
    return torch.stack(pixels)


def test_base_fits_in_25_megabytes() -> None:
    assert sum(path.stat().st_size for path in BASE.rglob("*") if path.is_file()) <= 25e6


def test_weights_are_stored_in_half_precision() -> None:
    for folder in ("vision_tower", "language_model"):
        config = json.loads((BASE / folder / "config.json").read_text())
        assert config["dtype"] == "float16"


def test_tower_has_the_shape_that_llava_reads(tower: CLIPVisionModel) -> None:
    config = tower.config
    assert (config.image_size, config.patch_size, config.hidden_size) == (128, 16, 192)
    assert 2.5e6 < sum(p.numel() for p in tower.parameters()) < 3.5e6
    with torch.inference_mode():
        states = tower(torch.zeros(1, 3, 128, 128), output_hidden_states=True).hidden_states
    assert len(states) == config.num_hidden_layers + 1
    assert states[-2].shape == (1, 65, 192)


def test_patch_features_are_finite_and_near_standard(tower: CLIPVisionModel) -> None:
    with torch.inference_mode():
        features = tower(shipped_pixels(24), output_hidden_states=True).hidden_states[-2][:, 1:]
    channels = features.flatten(0, 1)
    assert torch.isfinite(channels).all()
    assert channels.mean(0).abs().mean() < 0.25
    assert 0.8 < channels.std(0).mean() < 1.25
    assert channels.std(0).min() > 0.5 and channels.std(0).max() < 2.0


def test_patch_features_differ_between_pictures_and_places(tower: CLIPVisionModel) -> None:
    with torch.inference_mode():
        features = tower(shipped_pixels(4), output_hidden_states=True).hidden_states[-2][:, 1:]
    assert features.mean(1).std(0).mean() > 0.1
    assert features.std(1).mean() > 0.3


def test_language_model_has_the_demo_size(language_model: LlamaForCausalLM) -> None:
    assert 6e6 <= sum(p.numel() for p in language_model.parameters()) <= 10e6
    embeddings = language_model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    assert language_model.lm_head.weight.data_ptr() == embeddings.weight.data_ptr()


def test_tokenizer_is_llama_like(tokenizer: PreTrainedTokenizerBase, language_model: LlamaForCausalLM) -> None:
    assert tokenizer.is_fast
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == language_model.config.vocab_size
    assert tokenizer.pad_token is None


def test_tokenizer_adds_bos_and_no_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("Describe the picture.")["input_ids"]
    assert ids[0] == 1 and ids.count(1) == 1 and 2 not in ids


def test_end_of_sequence_in_text_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("USER: Is it? ASSISTANT: Yes</s>USER: Why? ASSISTANT: No</s>", add_special_tokens=False)[
        "input_ids"
    ]
    assert ids.count(2) == 2 and ids[-1] == 2
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "▁USER"
    assert tokenizer.convert_ids_to_tokens(ids)[ids.index(2) + 1] == "USER"


@pytest.mark.parametrize(
    "text",
    [
        "USER: Which bar is the longest, counting from the left? ASSISTANT: The third",
        "In which plane is this slice?\nAxial 12.5 %",
        "naïve café, 東京, µm, two  blanks",
    ],
)
def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert 0 not in ids
    assert tokenizer.decode(ids) == text


def test_language_model_knows_english(language_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    losses = []
    for sentence in HELD_OUT_SENTENCES:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            losses.append(language_model(input_ids=ids, labels=ids).loss.item())
    perplexity = math.exp(sum(losses) / len(losses))
    assert perplexity < len(tokenizer) / 10


def test_language_model_answers_in_the_prompt_form(
    language_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    ids = tokenizer("USER: In which plane is this slice? ASSISTANT:", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out = cast(Any, language_model).generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    answer = out[0, ids.shape[1] :].tolist()
    assert answer[-1] == tokenizer.eos_token_id
    text = tokenizer.decode(answer[:-1])
    assert isinstance(text, str) and text.strip()
