"""A LLaVA joined of a CLIP tower and a Llama-shaped language model, by a projector that has learned nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from llava_moe.errors import UserError
from llava_moe.model.architecture import FromParts, resolve
from llava_moe.model.checkpoint_files import check_generation_config
from llava_moe.model.pretrained import read_config, read_weights
from llava_moe.model.tokenizer import IMAGE_TOKEN, TABLE_MULTIPLE, load_tokenizer


@dataclass(frozen=True)
class PartKind:
    """What a part is loaded as: its class, and the values of ``model_type`` that the class is loaded from."""

    kind: Any
    model_types: tuple[str, ...]


TOWER = PartKind(CLIPVisionModel, ("clip", "clip_vision_model"))
LANGUAGE_MODEL = PartKind(LlamaForCausalLM, ("llama",))


def read_part(part: PartKind, reference: str) -> Any:
    """The configuration of a part; raises as :func:`~llava_moe.model.pretrained.read_config` does."""
    return read_config(part.kind, part.model_types, reference)


def join_parts(parts: FromParts, dtype: torch.dtype) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    """The model of these parts, with a fresh projector, and its tokenizer.

    Raises:
        UserError: a part is not there, or not of its kind.
    """
    check_generation_config(resolve(parts.language_model))
    tokenizer = load_tokenizer(parts.language_model)
    tower = read_weights(TOWER.kind, TOWER.model_types, parts.vision_tower, dtype, is_part=True)
    language: LlamaForCausalLM = read_weights(
        LANGUAGE_MODEL.kind, LANGUAGE_MODEL.model_types, parts.language_model, dtype, is_part=True
    )
    _grow_table(language, len(tokenizer))
    config = llava_config(tower.config, language.config, tokenizer, parts.vision_feature_layer)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = tower
    model.model.language_model = language.model
    model.lm_head = language.lm_head
    model.model.multi_modal_projector = _fresh_projector(model, language, parts.projector_output_std).to(dtype)
    model.generation_config = language.generation_config
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def llava_config(
    vision: CLIPVisionConfig, text: LlamaConfig, tokenizer: PreTrainedTokenizerBase, layer: int
) -> LlavaConfig:
    """LLaVA-1.5's configuration over two given towers."""
    sides = (vision.image_size, vision.patch_size)
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(
            f"the vision tower has image_size={sides[0]}, patch_size={sides[1]}: give whole numbers above 0"
        )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)),  # type: ignore[arg-type]
        image_seq_length=(int(sides[0]) // int(sides[1])) ** 2,  # type: ignore[arg-type]
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=layer,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def reset_projector(projector: nn.Module) -> None:
    """Start a projector as ``nn.Linear`` does, which is LLaVA's own start."""
    for layer in projector.children():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def _grow_table(language: LlamaForCausalLM, num_tokens: int) -> None:
    """Make room for the new tokens; their rows start as the mean of the others (nothing reads or predicts them)."""
    num_known = language.config.vocab_size
    language.resize_token_embeddings(num_tokens, pad_to_multiple_of=TABLE_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for table in (language.get_input_embeddings(), language.get_output_embeddings()):
            assert isinstance(table, nn.Embedding | nn.Linear)
            table.weight[num_known:] = table.weight[:num_known].float().mean(0).to(table.weight.dtype)


def _fresh_projector(
    model: LlavaForConditionalGeneration, language: LlamaForCausalLM, output_std: float | None
) -> nn.Module:
    projector = nn.Module.to_empty(model.model.multi_modal_projector, device="cpu").float()
    reset_projector(projector)
    if output_std is not None:
        embeddings = language.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        width = embeddings.weight.detach().float().std() * output_std
        # A GELU of unit-variance inputs has a root mean square near 0.65; nn.Linear's start keeps inputs near 0.58.
        second = projector.linear_2
        assert isinstance(second, nn.Linear)
        nn.init.normal_(second.weight, std=float(width) / (0.4 * second.in_features**0.5))
        nn.init.zeros_(second.bias)
    return projector
