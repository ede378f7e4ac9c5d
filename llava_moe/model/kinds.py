"""Which checkpoints can be opened: the kinds of model, vision towers and language models that are followed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlavaConfig, PreTrainedConfig

from llava_moe.errors import UserError
from llava_moe.model.sizes import refuse_sizes_without_end

TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Vision towers, and how many tokens each puts in front of the patches (CLIP's class token)."""

# Trap: Gemma multiplies its embeddings by the square root of their width; transformers 4 did so with image features,
# 5 does not. Which of the two a LLaVA of Gemma was trained with, nothing in its folder says.
LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "phi3")
ORIGINAL_LLAVA = ("llava_llama", "llava_mistral", "llava_mpt", "llava_qwen", "llava_gemma", "llava_phi")
TILED_LLAVA = ("llava_next", "llava_next_video", "llava_onevision", "vipllava", "video_llava")


def refuse_other_kind(path: str, reference: str, wanted: tuple[str, ...]) -> None:
    """Refuse a checkpoint of another architecture: from_pretrained would fill its weights at random with a warning.

    Args:
        path: a folder or hub id; ``reference`` is its name in messages.
        wanted: values of ``model_type``.

    Raises:
        UserError: ``config.json`` says another kind of model, or none.
    """
    if (Path(path) / "adapter_config.json").is_file() and not (Path(path) / "config.json").is_file():
        raise UserError(
            f"model {reference} is a PEFT adapter without its base: give model.path=BASE model.peft={reference}"
        )
    config, _ = PreTrainedConfig.get_config_dict(path)
    found = config.get("model_type")
    is_original = found in ORIGINAL_LLAVA or (found == "llava" and "vision_config" not in config)
    if "llava" in wanted and is_original:
        raise UserError(
            f"model {reference} is a checkpoint of the original LLaVA code (type {found}): take its converted form, as "
            "llava-hf/llava-1.5-7b-hf is for liuhaotian/llava-v1.5-7b, or convert it by transformers' "
            "convert_llava_weights_to_hf.py"
        )
    if "llava" in wanted and found in TILED_LLAVA:
        raise UserError(
            f"model {reference} is of type {found}, which sees an image in another way than LLaVA-1.5 (tiles, frames "
            "or several layers): give a checkpoint of type llava"
        )
    if found not in wanted:
        raise UserError(f"model {reference} is of type {found}, where one of type {' or '.join(wanted)} is needed")
    _refuse_strange_padding(config.get("text_config", config), reference)


def _refuse_strange_padding(text: Any, reference: str) -> None:
    """Refuse a padding token without a row before transformers meets it: some versions warn first."""
    pad, size = (text.get(key) if isinstance(text, dict) else None for key in ("pad_token_id", "vocab_size"))
    if isinstance(pad, int) and isinstance(size, int) and not -1 <= pad < size:
        raise UserError(
            f"model {reference}: pad_token_id={pad} of its config.json is no token of the {size} that it has: write "
            "the padding token's own number, or null"
        )


def check_llava(config: LlavaConfig, reference: str) -> None:
    """Refuse a LLaVA whose parts or numbers cannot be followed.

    Raises:
        UserError: another vision tower or language model, or numbers that no such tower has.
    """
    vision, text = config.vision_config, config.text_config
    if getattr(vision, "model_type", None) not in TOWERS:
        raise _unsupported(reference, "a vision tower", vision, tuple(TOWERS))
    if getattr(text, "model_type", None) not in LANGUAGE_MODELS:
        raise _unsupported(reference, "a language model", text, LANGUAGE_MODELS)
    size, patch, layers = (getattr(vision, key, None) for key in ("image_size", "patch_size", "num_hidden_layers"))
    if not all(isinstance(number, int) and number > 0 for number in (size, patch, layers)) or size < patch:  # type: ignore[operator]
        raise UserError(
            f"model {reference}: vision_config of its config.json says image_size={size}, patch_size={patch}, "
            f"num_hidden_layers={layers}; whole numbers are needed, the image no smaller than a patch"
        )
    refuse_sizes_without_end({"vision_config": vision, "text_config": text}, reference)
    num_states = int(layers) + 1  # type: ignore[arg-type]
    for layer in feature_layers(config):
        if not isinstance(layer, int) or not -num_states <= layer < num_states:
            raise UserError(
                f"model {reference}: vision_feature_layer={config.vision_feature_layer}, but its tower has the hidden "
                f"states {-num_states} to {num_states - 1}"
            )
    if not 0 <= config.image_token_id < text.vocab_size:  # type: ignore[union-attr]
        raise UserError(
            f"model {reference}: image_token_index={config.image_token_id} of its config.json is no row of its table "
            f"of {text.vocab_size} tokens: fix the number there"  # type: ignore[union-attr]
        )


def feature_layers(config: LlavaConfig) -> list[int]:
    """The tower's hidden states that the projector reads, as the configuration numbers them."""
    layer = config.vision_feature_layer
    return list(layer) if isinstance(layer, list | tuple) else [layer]


def feature_width(config: LlavaConfig) -> int:
    """Numbers of each vector that the projector reads: the tower's width, of each feature layer."""
    vision: Any = config.vision_config
    return int(vision.hidden_size) * len(feature_layers(config))


def num_image_tokens(config: LlavaConfig) -> int:
    """Places of one image in the sequence: the patches and, where the strategy keeps it, the class token."""
    vision: Any = config.vision_config
    num_in_front = TOWERS[vision.model_type]
    # "default" drops the first state, which SigLIP's towers do not spend on a class token: a patch then goes.
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    return int((vision.image_size // vision.patch_size) ** 2 + num_in_front - dropped)


def _unsupported(reference: str, part: str, config: Any, known: tuple[str, ...]) -> UserError:
    found = getattr(config, "model_type", None) or type(config).__name__
    return UserError(f"model {reference} has {part} of type {found}: supported are {', '.join(known)}")
