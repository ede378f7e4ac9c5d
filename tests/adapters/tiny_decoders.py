"""Tiny random models of many families, and the same three examples for each: alone, packed in a row, left-padded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import CLIPVisionConfig, PreTrainedModel, SiglipVisionConfig
from transformers.models.gemma import GemmaConfig, GemmaForCausalLM
from transformers.models.gemma2 import Gemma2Config, Gemma2ForCausalLM
from transformers.models.gemma3 import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
)
from transformers.models.llava_next import LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.mistral import MistralConfig, MistralForCausalLM
from transformers.models.phi3 import Phi3Config, Phi3ForCausalLM
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_moe import Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.models.qwen2_vl import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen3 import Qwen3Config, Qwen3ForCausalLM

from tests.tiny_models import IMAGE_TOKEN, TEXT, VISION, tiny_llama, tiny_llava

Inputs = dict[str, Tensor]

VIDEO_TOKEN, START_TOKEN, END_TOKEN = 61, 62, 63
LENGTHS = (5, 11, 8)
TOWER: dict[str, Any] = VISION
CLIP = CLIPVisionConfig(**TOWER)
SIGLIP = SiglipVisionConfig(**TOWER)
GEMMA = TEXT | {"head_dim": 8}
# A window shorter than the examples, so that it matters.
WINDOW = {"sliding_window": 6}
MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}


@dataclass(frozen=True)
class Family:
    """A kind of decoder: how to build one, and how it is called."""

    name: str
    build_model: Callable[[], PreTrainedModel]
    image_tokens: tuple[int, ...] = ()
    image: Callable[[], Inputs] | None = None
    marks_images: str | None = None
    multi_axis: bool = False
    packs: bool = True
    targets: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def fitted(self, config: Any) -> Any:
        """``config`` with the names of this family's linears where they are not Llama's."""
        named = {entry.name for entry in fields(config)}
        return replace(config, **{key: value for key, value in self.targets.items() if key in named})

    def build(self) -> Any:
        """The same model each time, frozen, in eval mode: a copy of what was built once."""
        model = _built(self.build_model)
        torch.manual_seed(0)
        return copy.deepcopy(model)

    def examples(self) -> list[Inputs]:
        """What the model is called with for each of three examples."""
        torch.manual_seed(2)
        rows = []
        for length in LENGTHS:
            ids = torch.tensor([[1, *self.image_tokens, *torch.randint(2, 60, (length,)).tolist()]])
            row = {"input_ids": ids} | (self.image() if self.image else {})
            if self.marks_images:
                row[self.marks_images] = (ids == IMAGE_TOKEN).long()
            rows.append(row)
        return rows

    def alone(self, model: Any) -> list[Tensor]:
        """The logits of each example by itself, [t, vocabulary]."""
        return [model(**row).logits[0] for row in self.examples()]

    def packed(self, model: Any) -> dict[str, Any]:
        """The three examples in one row; their positions start again."""
        rows = self.examples()
        together = {key: torch.cat([row[key] for row in rows], 1 if self.is_by_token(key) else 0) for key in rows[0]}
        positions = [self._positions(model, row) for row in rows]
        return together | {"position_ids": torch.cat(positions, -1), "use_cache": False}

    def left_padded(self) -> Inputs:
        """The three examples as rows of one length."""
        rows = self.examples()
        width = max(row["input_ids"].shape[1] for row in rows)
        together: Inputs = {}
        for key in rows[0]:
            columns = [row[key] for row in rows]
            if self.is_by_token(key):
                columns = [pad(column, (width - column.shape[1], 0)) for column in columns]
            together[key] = torch.cat(columns)
        lengths = torch.tensor([[row["input_ids"].shape[1]] for row in rows])
        mask = (torch.arange(width)[None] >= width - lengths).long()
        # Several axes of positions the model makes for itself.
        positions: Inputs = {} if self.multi_axis else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        return together | {"attention_mask": mask} | positions

    def is_by_token(self, key: str) -> bool:
        """Whether an input has a column for each token."""
        return key in ("input_ids", self.marks_images)

    def _positions(self, model: Any, row: Inputs) -> Tensor:
        ids = row["input_ids"]
        text = torch.arange(ids.shape[1])[None]
        if not self.multi_axis:
            return text
        axes = text[None].expand(3, 1, -1)
        if self.image:
            axes, _ = model.model.get_rope_index(ids, row["mm_token_type_ids"], image_grid_thw=row["image_grid_thw"])
        return torch.cat([text[None], axes])


@cache
def _built(build_model: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    return build_model().eval().requires_grad_(False)


def _pixels() -> Inputs:
    return {"pixel_values": torch.randn(1, 3, 16, 16)}


def _tiles() -> Inputs:
    return {"pixel_values": torch.randn(1, 3, 3, 16, 16), "image_sizes": torch.tensor([[32, 16]])}


def _patches() -> Inputs:
    return {"pixel_values": torch.randn(16, 3 * 2 * 4 * 4), "image_grid_thw": torch.tensor([[1, 4, 4]])}


def _llava_next() -> PreTrainedModel:
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIP,
            text_config=MistralConfig(**TEXT, sliding_window=None),
            image_token_index=IMAGE_TOKEN,
            image_grid_pinpoints=[[32, 16], [16, 32]],
        )
    )


def _qwen_vl_config(kind: type, vision: dict[str, Any]) -> Any:
    return kind(
        text_config=TEXT | {"rope_parameters": MROPE, "tie_word_embeddings": False},
        vision_config={"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 2, **vision},
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
        vision_start_token_id=START_TOKEN,
        vision_end_token_id=END_TOKEN,
    )


def _qwen2_vl() -> PreTrainedModel:
    vision = {"embed_dim": 16, "hidden_size": 32, "num_heads": 2}
    return Qwen2VLForConditionalGeneration(_qwen_vl_config(Qwen2VLConfig, vision))


def _qwen2_5_vl() -> PreTrainedModel:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "num_heads": 2,
        "window_size": 8,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLForConditionalGeneration(_qwen_vl_config(Qwen2_5_VLConfig, vision))


def _gemma3() -> PreTrainedModel:
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=Gemma3TextConfig(**GEMMA, **WINDOW, query_pre_attn_scalar=8),
            vision_config=SIGLIP,
            mm_tokens_per_image=4,
            image_token_id=IMAGE_TOKEN,
            boi_token_id=START_TOKEN,
            eoi_token_id=END_TOKEN,
        )
    )


FOUR = (START_TOKEN, *(IMAGE_TOKEN,) * 4, END_TOKEN)
QWEN_VL: dict[str, Any] = {"image_tokens": FOUR, "image": _patches, "marks_images": "mm_token_type_ids"}
FUSED = {
    "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "expert_modules": ["gate_up_proj", "down_proj"],
}

EXPERTS = {
    "num_experts": 3,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}

FAMILIES = (
    Family("llama", tiny_llama),
    Family("qwen2", lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT))),
    Family("qwen3", lambda: Qwen3ForCausalLM(Qwen3Config(**TEXT, head_dim=8))),
    Family("mistral", lambda: MistralForCausalLM(MistralConfig(**TEXT, **WINDOW))),
    Family("gemma", lambda: GemmaForCausalLM(GemmaConfig(**GEMMA))),
    Family("gemma2", lambda: Gemma2ForCausalLM(Gemma2Config(**GEMMA, **WINDOW, query_pre_attn_scalar=8))),
    Family("gemma3_text", lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA, **WINDOW, query_pre_attn_scalar=8))),
    # The MLP that every token visits beside its experts is called with the tokens of all rows in one.
    Family("qwen2_moe", lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**TEXT, **EXPERTS))),
    Family("phi3", lambda: Phi3ForCausalLM(Phi3Config(**TEXT)), targets=FUSED),
    Family("llava", tiny_llava, (IMAGE_TOKEN,) * 4, _pixels),
    Family("llava_text", tiny_llava),
    # 32 x 16 pixels: 2 x 2 patches of the whole, 4 x 2 of two tiles, and a newline after each of 4 rows.
    Family("llava_next", _llava_next, (IMAGE_TOKEN,) * (4 + 4 * 2 + 4), _tiles),
    Family("qwen2_vl", _qwen2_vl, multi_axis=True, **QWEN_VL),
    Family("qwen2_vl_text", _qwen2_vl, multi_axis=True),
    Family("qwen2_5_vl", _qwen2_5_vl, multi_axis=True, **QWEN_VL),
    # transformers' own mask for images in a sliding window is not that of the examples alone.
    Family("gemma3", _gemma3, FOUR, _pixels, "token_type_ids", packs=False),
    Family("gemma3_vl_text", _gemma3),
)
