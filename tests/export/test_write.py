"""What a written folder says of its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import NoAdapter
from llava_moe.assemble import ModelSpec, new_model, open_checkpoint, processor_of
from llava_moe.data.end_tokens import end_token_ids
from llava_moe.data.template import Template
from llava_moe.export.write import write_model
from llava_moe.model import FromShape
from llava_moe.model.families import LLAVA

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
          "image_size": 24, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 256}  # fmt: skip


@pytest.mark.parametrize("ends", [2, [2, 7], [9, 7]])
def test_an_exported_folder_stops_where_its_base_does(
    tokenizer_folder: Path, tmp_path: Path, ends: int | list[int]
) -> None:
    architecture = FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer_folder))
    built = new_model(ModelSpec(architecture, NoAdapter(), "fp32", Template(), "pad", 128, "cut"), torch.device("cpu"))
    built.model.generation_config.eos_token_id = ends
    write_model(built.model, processor_of(built), tmp_path, torch.float32, family=LLAVA)
    # The tokenizer's own ends an answer too: it is what training ends answers with.
    expected: Any = {2: 2, (2, 7): [2, 7], (9, 7): [2, 9, 7]}[ends if isinstance(ends, int) else tuple(ends)]
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == expected
    assert LlavaForConditionalGeneration.from_pretrained(tmp_path).generation_config.eos_token_id == expected
    again = open_checkpoint(str(tmp_path), "fp32", torch.device("cpu"))
    assert end_token_ids(again.model, again.encoder.tokenizer) == tuple([expected] if expected == 2 else expected)


def test_a_list_in_the_configuration_alone_counts(tokenizer_folder: Path, tmp_path: Path) -> None:
    architecture = FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer_folder))
    built = new_model(ModelSpec(architecture, NoAdapter(), "fp32", Template(), "pad", 128, "cut"), torch.device("cpu"))
    write_model(built.model, processor_of(built), tmp_path, torch.float32, family=LLAVA)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = [2, 11]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for has_file in (True, False):
        again = open_checkpoint(str(tmp_path), "fp32", torch.device("cpu"))
        assert end_token_ids(again.model, again.encoder.tokenizer) == (2, 11)
        if has_file:
            (tmp_path / "generation_config.json").unlink()
