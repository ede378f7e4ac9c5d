"""Tiny random LLaVA folders of many kinds, as transformers itself writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.mistral import MistralConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_moe.model.tokenizer import extend_tokenizer

SIZE = 24
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIZE,
    "patch_size": 8, "initializer_range": 0.2,
}  # fmt: skip
TEXT = {
    "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
LANGUAGE_MODELS: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "phi3": Phi3Config,
}
HALF = [0.5, 0.5, 0.5]
SQUARE = {"height": SIZE, "width": SIZE}


def siglip_processor(**settings: Any) -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(**{"size": SQUARE, "image_mean": HALF, "image_std": HALF} | settings)


def clip_processor(**settings: Any) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(**{"size": {"shortest_edge": SIZE}, "crop_size": SQUARE} | settings)


def llava_processor(**settings: Any) -> LlavaImageProcessorPil:
    return LlavaImageProcessorPil(**{"size": {"shortest_edge": SIZE}, "crop_size": SQUARE} | settings)


def write_llava(
    folder: Path,
    tokenizer_folder: Path,
    *,
    tower: str = "clip",
    language: str = "llama",
    image_processor: Any = None,
    chat_template: str | None = None,
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    **settings: Any,
) -> LlavaForConditionalGeneration:
    """Write a whole folder and return its model: SigLIP is read in full and cut at -1, CLIP at -2 without its class."""
    torch.manual_seed(0)
    tokenizer = extend_tokenizer(AutoTokenizer.from_pretrained(tokenizer_folder))
    is_siglip = tower == "siglip"
    vision_config = (SiglipVisionConfig if is_siglip else CLIPVisionConfig)(**{**VISION, **(vision or {})})
    numbers = {token: getattr(tokenizer, token) for token in ("bos_token_id", "eos_token_id", "pad_token_id")}
    more = {"head_dim": 10} if language == "mistral" else {}
    text_config = LANGUAGE_MODELS[language](**{"vocab_size": 640, **TEXT, **numbers, **more, **(text or {})})
    chosen = {
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_select_strategy": "full" if is_siglip else "default",
        "vision_feature_layer": -1 if is_siglip else -2,
    }
    parts = {"vision_config": vision_config, "text_config": text_config}
    model = LlavaForConditionalGeneration(LlavaConfig(**parts | chosen | settings)).eval()
    model.save_pretrained(folder)
    if image_processor is None:
        image_processor = siglip_processor() if is_siglip else llava_processor(do_pad=True)
    LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=vision_config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=0 if is_siglip else 1,
        chat_template=chat_template,
    ).save_pretrained(folder)
    return model


def rewrite(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
