"""What the entry point group ``lmms_eval.models`` names: ``lmms_eval --model llava_moe``."""

from __future__ import annotations

from typing import Any

MODEL_ID = "llava_moe"
CLASS_PATH = "llava_moe.lmms_eval_plugin.model.LlavaMoe"


def manifest() -> Any:
    """An ``lmms_eval.models.registry_v2.ModelManifest``; the model's own module is imported when it is chosen."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path=CLASS_PATH)
