"""Everything that touches Hugging Face model classes."""

from llava_moe.model.attention import AttentionChoice, choose_attention, packing_arguments
from llava_moe.model.build import (
    Architecture,
    BaseFacts,
    BaseModel,
    FromCheckpoint,
    FromParts,
    FromShape,
    build_base,
    build_base_without_weights,
    read_base,
    vision_config,
)
from llava_moe.model.recompute import recompute_activations
from llava_moe.model.stages import ParameterGroup, TrainableParts, prepare_stage

__all__ = [
    "Architecture",
    "AttentionChoice",
    "BaseFacts",
    "BaseModel",
    "FromCheckpoint",
    "FromParts",
    "FromShape",
    "ParameterGroup",
    "TrainableParts",
    "build_base",
    "build_base_without_weights",
    "choose_attention",
    "packing_arguments",
    "prepare_stage",
    "read_base",
    "recompute_activations",
    "vision_config",
]
