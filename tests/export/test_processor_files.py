"""A processor's files as transformers 4 and 5 both read them."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoProcessor, AutoTokenizer, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_moe.export.processor_files import write_processor
from llava_moe.model.tokenizer import extend_tokenizer

PUBLISHED = json.loads((Path(__file__).parent / "published_names.json").read_text())
TEXT = "USER: <image>\nHow many <ref> bars  are shown? ASSISTANT:"


def test_files_are_those_of_published_folders_and_name_no_class_of_version_5(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    tokenizer = extend_tokenizer(AutoTokenizer.from_pretrained(tokenizer_folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<ref>"]})
    pixels = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(pixels, tokenizer, patch_size=8, chat_template="{{ messages }}")
    write_processor(processor, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == PUBLISHED["processor_files"]
    tokens, image, whole = (
        json.loads((tmp_path / f"{name}_config.json").read_text())
        for name in ("tokenizer", "preprocessor", "processor")
    )
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"  # version 4 has no TokenizersBackend
    assert tokens["additional_special_tokens"] == ["<ref>"] and "extra_special_tokens" not in tokens
    assert tokens["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"backend", "is_local", "local_files_only", "name_or_path"} & tokens.keys()
    assert (image["image_processor_type"], image["do_pad"]) == ("LlavaImageProcessor", True)
    assert "image_processor" not in whole and whole["processor_class"] == "LlavaProcessor"
    assert all(
        str(place) not in path.read_text() for place in (tmp_path, tokenizer_folder) for path in tmp_path.iterdir()
    )
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.image_processor.do_pad and loaded.image_processor.crop_size["height"] == 32
    assert loaded.tokenizer(TEXT).input_ids == tokenizer(TEXT).input_ids
    assert loaded.tokenizer.decode(tokenizer(TEXT).input_ids, skip_special_tokens=True).count("<") == 0
