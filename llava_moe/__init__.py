"""Instruction-tuning multimodal models on mixtures of conflicting domains, with mixtures of LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor


def load_run(folder: str | Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load a finished or running run's newest checkpoint, ready for ``model.generate``.

    Args:
        folder: a run's folder, or the folder of an experiment of several stages (its last stage is taken).

    Returns:
        The Hugging Face model in eval mode with the adapter attached, and the processor that writes prompts and pixels
        as training did.

    Raises:
        UserError: the folder holds no complete checkpoint.
    """
    from llava_moe.assemble import load_run as load

    return load(folder)
