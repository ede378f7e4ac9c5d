"""A run as Hugging Face's own pair: its model, and a processor that writes prompts and pixels as training did."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_moe.assemble.assembled import Assembled
from llava_moe.assemble.from_run import restore
from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.template import chat_template
from llava_moe.model import vision_config
from llava_moe.model.kinds import TOWERS


def load_run(folder: str | Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """See :func:`llava_moe.load_run`."""
    assembled = restore(folder)
    for note in assembled.notes:
        warnings.warn(note, stacklevel=3)
    return assembled.model, processor_of(assembled)


def processor_of(assembled: Assembled) -> LlavaProcessor:
    """A Hugging Face processor that writes prompts and pixels as training did, padding to a square included.

    Raises:
        ValueError: the model is no run of ours: it has a processor of its own.
    """
    base, encoder = assembled.base, assembled.encoder
    if isinstance(encoder.template, ChatTemplate) or encoder.transform.mode == "resize":
        raise ValueError("a checkpoint that is asked as its own files say has a processor of its own")
    vision: Any = vision_config(base.model)
    pixels = LlavaImageProcessorPil(
        do_pad=encoder.transform.mode == "pad",
        size={"shortest_edge": base.image_size},
        crop_size={"height": base.image_size, "width": base.image_size},
        image_mean=list(base.image_mean),
        image_std=list(base.image_std),
    )
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=base.tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=base.model.config.vision_feature_select_strategy,
        num_additional_image_tokens=TOWERS[vision.model_type],
        chat_template=chat_template(encoder.template),
    )
