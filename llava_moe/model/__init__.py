"""Everything that touches Hugging Face model classes."""

from llava_moe.model.architecture import Architecture, FromCheckpoint, FromParts, FromShape
from llava_moe.model.attention import AttentionChoice, choose_attention, packing_arguments
from llava_moe.model.build import BaseModel, build_base, build_base_without_weights, read_base
from llava_moe.model.families import ARCHITECTURES, BaseFacts, Family
from llava_moe.model.recompute import recompute_activations
from llava_moe.model.stages import ParameterGroup, TrainableParts, prepare_stage

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "AttentionChoice",
    "BaseFacts",
    "BaseModel",
    "Family",
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
]
