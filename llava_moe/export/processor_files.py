"""A processor's files as published ``llava-hf`` folders have them, which transformers 4 and 5 both read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlavaProcessor

from llava_moe.export.published import write_json
from llava_moe.files.regular_file import read_regular
from llava_moe.text.structured_text import parse_json

PROCESSOR, PREPROCESSOR, TOKENIZER = "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
OF_ONE_MACHINE = ("backend", "is_local", "local_files_only", "name_or_path", "tokenizer_file", "vocab_file")
"""What transformers 5 notes in ``tokenizer_config.json`` about where and how it loaded a tokenizer."""
CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast", "SentencePieceBackend": "PreTrainedTokenizer"}
"""Names of transformers 5 for classes that transformers 4 has under another; version 5 knows both names."""


def write_processor(processor: LlavaProcessor, folder: Path) -> None:
    """Write tokenizer, image processor and chat template into ``folder``, which is made when it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    settings = _read(folder / PROCESSOR)
    pixels = settings.pop("image_processor")
    write_json(folder / PREPROCESSOR, pixels | {"processor_class": settings["processor_class"]})
    write_json(folder / PROCESSOR, settings)
    write_json(folder / TOKENIZER, _for_both_versions(_read(folder / TOKENIZER)))
    named = processor.tokenizer.special_tokens_map
    write_json(folder / SPECIAL_TOKENS, {name: token for name, token in named.items() if isinstance(token, str)})


def _for_both_versions(settings: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in OF_ONE_MACHINE}
    # Trap: a class that stands for any tokenizer gives token_type_ids in version 4, at which LLaVA's generate stops.
    kept["model_input_names"] = ["input_ids", "attention_mask"]
    kept["tokenizer_class"] = CLASSES.get(kept["tokenizer_class"], kept["tokenizer_class"])
    # Trap: transformers 5 writes a list where version 4 wants names by token, and stops at it.
    if isinstance(kept.get("extra_special_tokens"), list):
        kept["additional_special_tokens"] = kept.pop("extra_special_tokens")
    return kept


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = parse_json(read_regular(path))
    return content
