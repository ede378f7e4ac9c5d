"""A model's files as published ``llava-hf`` folders have them, which transformers 4 and 5 both read.

transformers 5 takes the ``vision_model`` level out of a tower in memory, and saves a model that it did not load from a
published folder without it: transformers 4.57 would then start the tower from random weights. So tensors are named
here, and the configuration keeps the keys that transformers 4 reads (``rope_theta``, ``torch_dtype``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from llava_moe.model.families import Family
from llava_moe.model.families.published_name import published_name
from llava_moe.text.structured_text import parse_json

WEIGHTS, INDEX = "model{suffix}.safetensors", "model.safetensors.index.json"
MAX_SHARD_SIZE = "5GB"
"""What transformers 4 cuts at, and what the published folders were cut at."""


def write_weights(
    model: LlavaForConditionalGeneration, folder: Path, max_shard_size: str | int, family: Family
) -> None:
    """Write a model's tensors under their published names, with an index where they are cut into shards.

    Of tied tensors the first stands for all, as in published folders: the embeddings, without a head.
    """
    once = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    tensors = {published_name(name, family): tensor for name, tensor in model.state_dict().items() if name in once}
    split = split_torch_state_dict_into_shards(tensors, filename_pattern=WEIGHTS, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        shard = {name: tensors[name].contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        num_parameters = sum(tensor.numel() for tensor in tensors.values())
        metadata = {"total_parameters": num_parameters, **split.metadata}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": split.tensor_to_filename})


def write_config(model: LlavaForConditionalGeneration, folder: Path, dtype: torch.dtype) -> None:
    """Write ``config.json``: every key that transformers 4 or 5 reads, and no place of this machine."""
    settings = parse_json(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    write_json(folder / "config.json", _for_both_versions(settings, str(dtype).removeprefix("torch.")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file as transformers writes its own."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _for_both_versions(settings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Settings of a model and, within them, of its towers."""
    kept = {
        key: _for_both_versions(value, dtype) if key.endswith("_config") else value for key, value in settings.items()
    }
    kept.pop("_name_or_path", None)
    kept |= {"dtype": dtype, "torch_dtype": dtype}
    rope = kept.get("rope_parameters")
    if isinstance(rope, Mapping) and "rope_theta" in rope:
        scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
        # Trap: transformers 4 does not know rope_parameters and would turn by its own default without a word.
        kept |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        kept["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    return kept
