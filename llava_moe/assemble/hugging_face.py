"""A run as Hugging Face's own pair: its model, and a processor that writes prompts and pixels as training did."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import cast

from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_moe.assemble.assembled import Assembled
from llava_moe.assemble.from_run import restore
from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.template import chat_template
from llava_moe.errors import UserError


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
        UserError: its family has none that makes its pixels.
    """
    base, encoder = assembled.base, assembled.encoder
    if isinstance(encoder.template, ChatTemplate) or encoder.transform.mode == "resize":
        raise ValueError("a checkpoint that is asked as its own files say has a processor of its own")
    try:
        processor = base.family.processor(base.model, base, encoder.transform, chat_template(encoder.template))
    except ValueError as error:
        raise UserError(f"models of the family {base.family.name} have no processor to export: {error}") from error
    # Another family's is called alike.
    return cast(LlavaProcessor, processor)
