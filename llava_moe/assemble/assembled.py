"""A model with its adapter attached, as every part of the program is handed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import Attached
from llava_moe.data.batch import Batch
from llava_moe.data.encode import Encoder
from llava_moe.model import AttentionChoice, BaseModel
from llava_moe.model.recorded_weights import BaseWeights


@dataclass(frozen=True)
class Assembled:
    """A model with its adapter attached, and what encodes data for it.

    Attributes:
        weights: names the weights of the base alone, as they were before any training.
        start: fingerprints of what ``init_from`` gave it; empty without one.
        notes: what the user should know of the base, a line each.
    """

    base: BaseModel
    attached: Attached
    encoder: Encoder
    attention: AttentionChoice
    has_adapter: bool
    weights: BaseWeights
    start: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> LlavaForConditionalGeneration:
        return self.base.model

    def inputs_of(self, batch: Batch) -> dict[str, Any]:
        """Forward arguments of one packed row. No attention mask and no cache: either would join its examples."""
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "use_cache": False,
            **self.base.family.packed_inputs(batch.segment_lengths, batch.input_ids.device),
        }
        if batch.pixel_values.shape[0]:
            transform = self.encoder.transform
            inputs |= transform.model_inputs(batch.pixel_values, batch.image_sizes, self.model.dtype)
        return inputs
