"""Exported files against what transformers 4.57 saves: names, shapes, shards, and the settings that version 4 reads."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llava.processing_llava import LlavaProcessor

from llava_moe.errors import UserError
from llava_moe.export.proof import load_merged
from llava_moe.export.published import MAX_SHARD_SIZE, write_config, write_weights
from llava_moe.export.write import generation_of
from llava_moe.model.families import LLAVA

PUBLISHED = json.loads((Path(__file__).parent / "published_names.json").read_text())
"""Written by ``scripts/check_published_llava.py names`` under transformers 4.57.6."""


def tensors_of(folder: Path) -> dict[str, tuple[str, str]]:
    """File and shape of each tensor, read by the format's definition: no library that writes such files."""
    found: dict[str, tuple[str, str]] = {}
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        assert header.pop("__metadata__") == {"format": "pt"}
        found |= {name: (path.name, "x".join(map(str, entry["shape"]))) for name, entry in header.items()}
    return found


def build(**text: Any) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(**PUBLISHED["vision"])
    torch.manual_seed(0)
    # The version 4 that wrote the list has the flag in the language model's settings alone.
    is_tied = text.get("tie_word_embeddings", False)
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**text), image_token_index=600, tie_word_embeddings=is_tied
    )
    return LlavaForConditionalGeneration(config)


@pytest.mark.parametrize("name", PUBLISHED["variants"])
def test_tensors_are_those_of_published_folders_whatever_the_model_was_made_of(name: str, tmp_path: Path) -> None:
    variant = PUBLISHED["variants"][name]
    made, folders = build(**variant["text"]), [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    write_weights(made, folders[0], variant["max_shard_size"], LLAVA)
    made.save_pretrained(folders[1])  # as transformers 5 names them
    write_config(made, folders[0], torch.float32)
    for source in folders[:2]:
        loaded = LlavaForConditionalGeneration.from_pretrained(source)
        write_weights(loaded, folders[2], variant["max_shard_size"], LLAVA)
        written = tensors_of(folders[2])
        assert {tensor: shape for tensor, (_, shape) in written.items()} == variant["tensors"]
        assert (
            sorted([*(path.name for path in folders[2].iterdir()), "config.json", "generation_config.json"])
            == (variant["files"])
        )
        if "weight_map" in variant:
            index = json.loads((folders[2] / "model.safetensors.index.json").read_text())
            assert index["weight_map"] == {tensor: file for tensor, (file, _) in written.items()}
            assert index["weight_map"] == variant["weight_map"]
            assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in loaded.parameters())
    assert PUBLISHED["variants"]["untied"]["max_shard_size"] == MAX_SHARD_SIZE


LLAMA_3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3 |= {"original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_type": "default", "rope_theta": 5e5}, None),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (LLAMA_3, {key: value for key, value in LLAMA_3.items() if key != "rope_theta"}),
    ],
)
def test_rotary_settings_stand_under_the_keys_of_both_versions(
    rope: dict[str, Any], scaling: dict[str, Any] | None, tmp_path: Path
) -> None:
    model = build(**PUBLISHED["variants"]["untied"]["text"], rope_parameters=rope)
    write_config(model, tmp_path, torch.bfloat16)
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert (text["rope_theta"], text["rope_scaling"], text["rope_parameters"]) == (rope["rope_theta"], scaling, rope)
    assert cast(LlamaConfig, LlavaConfig.from_pretrained(tmp_path).text_config).rope_parameters == rope


def test_a_share_of_turned_channels_stands_where_version_4_reads_it(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    write_config(build(**PUBLISHED["variants"]["untied"]["text"], rope_parameters=rope), tmp_path, torch.float32)
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert (text["partial_rotary_factor"], text["rope_scaling"], text["rope_parameters"]) == (0.5, None, rope)


def test_a_folder_that_lacks_a_tensor_is_not_taken_for_the_model(tmp_path: Path) -> None:
    model = build(**PUBLISHED["variants"]["untied"]["text"])
    write_config(model, tmp_path, torch.float32)
    write_weights(model, tmp_path, MAX_SHARD_SIZE, LLAVA)
    load_merged(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["vision_tower.vision_model.post_layernorm.bias"]  # which no logit of LLaVA's depends on
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensors, such as model\.vision_tower\.post_layernorm\.bias"):
        load_merged(tmp_path)


def test_precision_is_that_of_the_weights_in_every_part_and_no_place_is_named(tmp_path: Path) -> None:
    first = tmp_path / "first"
    build(**PUBLISHED["variants"]["untied"]["text"]).save_pretrained(first)
    model = LlavaForConditionalGeneration.from_pretrained(first)
    cast(LlamaConfig, model.config.text_config)._name_or_path = str(first)
    write_config(model, tmp_path, torch.bfloat16)
    written = (tmp_path / "config.json").read_text()
    settings = json.loads(written)
    for part in (settings, settings["text_config"], settings["vision_config"]):
        assert part["dtype"] == part["torch_dtype"] == "bfloat16"
    assert settings["architectures"] == ["LlavaForConditionalGeneration"] and settings["model_type"] == "llava"
    assert str(tmp_path) not in written


class Words:
    """As much of a processor as says where answers end."""

    class tokenizer:
        eos_token_id, pad_token_id = 2, 9


@pytest.mark.parametrize(("own", "written"), [(2, 2), (None, 2), ([2, 7], [2, 7]), (7, [2, 7])])
def test_generation_stops_at_every_token_at_which_base_or_training_did(own: Any, written: Any) -> None:
    model = build(**PUBLISHED["variants"]["untied"]["text"])
    model.generation_config.eos_token_id = own
    model.generation_config.temperature = 0.9  # a wish of the base's that stands without do_sample, as Vicuna's does
    found = generation_of(model, cast(LlavaProcessor, Words()))
    assert (found.eos_token_id, found.pad_token_id, found.temperature) == (written, 9, None)
