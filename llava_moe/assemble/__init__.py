"""Builds a model, its adapter and its data encoder: new for training, or as a run's folder holds them."""

from llava_moe.assemble.ancestry import lineage, load_lineage
from llava_moe.assemble.assembled import Assembled
from llava_moe.assemble.base_checks import refuse_strange_base
from llava_moe.assemble.build import new_model, new_model_without_weights
from llava_moe.assemble.checkpoint_weights import load_base_parts, weights_writer
from llava_moe.assemble.encoder import encoder_of
from llava_moe.assemble.from_checkpoint import open_checkpoint
from llava_moe.assemble.from_run import new_base, new_start, restore, restore_base, with_adapter
from llava_moe.assemble.hugging_face import load_run, processor_of
from llava_moe.assemble.registered import ADAPTERS, ARCHITECTURES, from_target
from llava_moe.assemble.spec import DTYPES, ModelSpec, model_spec_of, read_config

__all__ = [
    "ADAPTERS",
    "ARCHITECTURES",
    "DTYPES",
    "Assembled",
    "ModelSpec",
    "encoder_of",
    "from_target",
    "lineage",
    "load_base_parts",
    "load_lineage",
    "load_run",
    "model_spec_of",
    "new_base",
    "new_model",
    "new_model_without_weights",
    "new_start",
    "open_checkpoint",
    "processor_of",
    "read_config",
    "refuse_strange_base",
    "restore",
    "restore_base",
    "weights_writer",
    "with_adapter",
]
