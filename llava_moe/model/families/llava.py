"""LLaVA-1.5 and its relatives: a CLIP or SigLIP tower, a projector, and a Llama-, Mistral- or Qwen2-shaped model.

haotian-liu/LLaVA ``llava/model/multimodal_encoder``: hidden state -2, patch tokens only, a two-layer GELU projector
with biases. Every image is made one square, so all take equally many places in the sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerBase
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_moe.data.images.inputs import ImageInputs
from llava_moe.data.images.transform import CLIP_MEAN, CLIP_STD, ImageTransform
from llava_moe.errors import UserError
from llava_moe.model.architecture import Architecture, FromCheckpoint, FromParts, FromShape, name_of, resolve
from llava_moe.model.attention import packing_arguments
from llava_moe.model.checkpoint_files import check_generation_config
from llava_moe.model.families.llava_parts import (
    LANGUAGE_MODEL,
    TOWER,
    join_parts,
    llava_config,
    read_part,
    reset_projector,
)
from llava_moe.model.families.protocol import BaseFacts, PartNames
from llava_moe.model.image_processor import ImageMode, ImageProcessor, read_image_processor
from llava_moe.model.kinds import TOWERS, check_llava, feature_layers, feature_width, num_image_tokens
from llava_moe.model.pretrained import random_weights, read_config, read_weights, shaped_config
from llava_moe.model.sizes import refuse_beyond_memory
from llava_moe.model.tokenizer import fit_to_table, load_tokenizer, num_table_rows, refuse_other_tokenizer
from llava_moe.model.tower_features import accept_features, features_of, num_dropped_in_front, refuse_changing_tower

MODEL_TYPES = ("llava",)
_PUBLISHED_ROOTS = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.vision_model.": "vision_tower.vision_model.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


@dataclass(frozen=True)
class Llava:
    """See :class:`~llava_moe.model.families.protocol.Family`."""

    name: str = "llava"
    parts: PartNames = PartNames(  # noqa: RUF009
        "model.vision_tower", "model.multi_modal_projector", "model.language_model", "lm_head"
    )
    default_template: Literal["v1", "plain"] = "v1"
    architectures: tuple[type, ...] = (FromParts, FromCheckpoint, FromShape)

    @property
    def published_roots(self) -> Mapping[str, str]:
        return _PUBLISHED_ROOTS

    def takes(self, architecture: Architecture) -> bool:
        return isinstance(architecture, FromParts | FromCheckpoint | FromShape)

    def read(self, architecture: Architecture) -> tuple[LlavaConfig, PreTrainedTokenizerBase]:
        if isinstance(architecture, FromShape):
            return _config_of_shape(architecture)
        if isinstance(architecture, FromCheckpoint):
            return _config_of_checkpoint(architecture.path)
        tokenizer = load_tokenizer(architecture.language_model)
        vision = read_part(TOWER, architecture.vision_tower)
        text = read_part(LANGUAGE_MODEL, architecture.language_model)
        text.vocab_size = num_table_rows(len(tokenizer))
        return llava_config(vision, text, tokenizer, architecture.vision_feature_layer), tokenizer

    def open(
        self, architecture: Architecture, dtype: torch.dtype
    ) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
        if isinstance(architecture, FromParts):
            return join_parts(architecture, dtype)
        if isinstance(architecture, FromCheckpoint):
            _, tokenizer = _config_of_checkpoint(architecture.path)
            return read_weights(LlavaForConditionalGeneration, MODEL_TYPES, architecture.path, dtype), tokenizer
        config, tokenizer = _config_of_shape(architecture)
        refuse_beyond_memory((config.vision_config, config.text_config), name_of(architecture), dtype)
        torch.manual_seed(architecture.seed)
        model = self.make(config, dtype, name_of(architecture))
        reset_projector(model.model.multi_modal_projector)
        return model, tokenizer

    def make(self, config: LlavaConfig, dtype: torch.dtype, name: str) -> LlavaForConditionalGeneration:
        check_llava(config, name)
        model: LlavaForConditionalGeneration = random_weights(LlavaForConditionalGeneration, config, dtype, name)
        return model

    def facts(self, config: LlavaConfig, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> BaseFacts:
        check_llava(config, name_of(architecture))
        vision: Any = config.vision_config
        size = int(vision.image_size)
        processor = _image_processor(config, architecture)
        is_whole = isinstance(architecture, FromCheckpoint)
        return BaseFacts(
            family=self,
            tokenizer=tokenizer,
            image_size=size,
            num_image_tokens=num_image_tokens(config),
            image_token_id=config.image_token_id,
            image_mean=CLIP_MEAN if processor is None else processor.mean,
            image_std=CLIP_STD if processor is None else processor.std,
            # What becomes of a tower's own images says nothing of a LLaVA that is still to be trained.
            image_mode=processor.mode(size) if processor is not None and is_whole else None,
            feature_width=feature_width(config),
        )

    def image_inputs(self, base: BaseFacts, mode: ImageMode, nearest: ImageProcessor | None = None) -> ImageTransform:
        mean, std = (base.image_mean, base.image_std) if nearest is None else (nearest.mean, nearest.std)
        return ImageTransform(base.image_size, mode, mean, std)

    def set_attention(self, model: LlavaForConditionalGeneration, kernel: str) -> None:
        model.set_attn_implementation({"text_config": kernel, "vision_config": "sdpa"})

    def packed_inputs(self, segment_lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
        return packing_arguments(tuple(segment_lengths), device)

    def parameters_of(
        self,
        model: LlavaForConditionalGeneration,
        named: Mapping[str, nn.Parameter],
        part: str,
        vision_layers: tuple[int, int] | None,
    ) -> dict[str, nn.Parameter]:
        if part == "projector":
            return {name: p for name, p in named.items() if self.parts.is_projectors(name)}
        if part == "language_model":
            return {name: p for name, p in named.items() if self.parts.is_language_models(name)}
        # Hidden state 0 is what goes into layer 0, and the last one what comes out of the last layer.
        vision: Any = model.config.vision_config
        num_states = vision.num_hidden_layers + 1
        last_read = max(layer % num_states for layer in feature_layers(model.config)) - 1
        layer_of = re.compile(r"vision_tower\..*encoder\.layers\.(\d+)\.")
        tower: dict[str, nn.Parameter] = {}
        if vision_layers is None:
            tower = {name: p for name, p in named.items() if self.parts.is_towers(name) and _is_before_layers(name)}
        first, last = vision_layers or (0, last_read)
        if not 0 <= first <= last <= last_read:
            raise UserError(
                f"stage.vision_layers={[first, last]}: the tower's layers that are read are 0 to {last_read} "
                f"(the feature layer is {model.config.vision_feature_layer})"
            )
        return tower | {
            name: p for name, p in named.items() if (found := layer_of.search(name)) and first <= int(found[1]) <= last
        }

    def refuse_changing_tower(self, model: LlavaForConditionalGeneration) -> None:
        refuse_changing_tower(model)

    def features_of(self, model: LlavaForConditionalGeneration, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        (pixels_3HW,) = inputs["pixel_values"]
        return features_of(model, pixels_3HW)

    def num_dropped_in_front(self, model: LlavaForConditionalGeneration) -> int:
        return num_dropped_in_front(model)

    def accept_features(self, model: LlavaForConditionalGeneration) -> None:
        accept_features(model)

    def feature_inputs(self, features_ITW: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": features_ITW}

    def processor(
        self,
        model: LlavaForConditionalGeneration,
        base: BaseFacts,
        transform: ImageInputs,
        chat_template: str,
    ) -> LlavaProcessor:
        if transform.mode == "resize":
            raise ValueError("Hugging Face's image processor of LLaVA does not resize both sides")
        vision: Any = model.config.vision_config
        pixels = LlavaImageProcessorPil(
            do_pad=transform.mode == "pad",
            size={"shortest_edge": base.image_size},
            crop_size={"height": base.image_size, "width": base.image_size},
            image_mean=list(base.image_mean),
            image_std=list(base.image_std),
        )
        return LlavaProcessor(
            image_processor=pixels,
            tokenizer=base.tokenizer,
            patch_size=vision.patch_size,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
            num_additional_image_tokens=TOWERS[vision.model_type],
            chat_template=chat_template,
        )


LLAVA = Llava()


def _config_of_shape(shape: FromShape) -> tuple[LlavaConfig, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(shape.tokenizer)
    text = dict(shape.text)
    text.setdefault("vocab_size", num_table_rows(len(tokenizer)))
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        text.setdefault(token, getattr(tokenizer, token))
    text_config = shaped_config(LANGUAGE_MODEL.kind.config_class, text, "text")
    vision = shaped_config(TOWER.kind.config_class, shape.vision, "vision")
    fit_to_table(tokenizer, text_config.vocab_size, name_of(shape))
    return llava_config(vision, text_config, tokenizer, shape.vision_feature_layer), tokenizer


def _config_of_checkpoint(path: str) -> tuple[LlavaConfig, PreTrainedTokenizerBase]:
    config = read_config(LlavaForConditionalGeneration, MODEL_TYPES, path)
    check_llava(config, path)
    check_generation_config(resolve(path))
    tokenizer = load_tokenizer(path)
    refuse_other_tokenizer(path, config.image_token_id, tokenizer)
    fit_to_table(tokenizer, config.get_text_config().vocab_size, path)
    return config, tokenizer


def _image_processor(config: LlavaConfig, architecture: Architecture) -> ImageProcessor | None:
    if isinstance(architecture, FromShape):
        return None
    where = architecture.path if isinstance(architecture, FromCheckpoint) else architecture.vision_tower
    processor = read_image_processor(resolve(where))
    tower = getattr(config.vision_config, "model_type", None)
    if processor is None and tower != "clip_vision_model":
        raise UserError(
            f"model {where} has no image processor (preprocessor_config.json), and its tower is a {tower}, whose "
            "pixels are not CLIP's: put the file of the checkpoint there"
        )
    return processor


def _is_before_layers(name: str) -> bool:
    """Whether a parameter of the tower stands before its layers; what stands behind them is not read."""
    # CLIP spells its norm so.
    return ".embeddings." in name or "pre_layrnorm" in name
