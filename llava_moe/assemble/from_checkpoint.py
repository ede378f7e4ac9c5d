"""A Hugging Face LLaVA checkpoint turned into a model that is asked as its own files say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from llava_moe.adapters import NoAdapter, attach, load_adapter_with_modules
from llava_moe.assemble.assembled import Assembled
from llava_moe.assemble.build import set_attention
from llava_moe.assemble.encoder import encoder_for
from llava_moe.assemble.spec import dtype_of
from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.template import Template
from llava_moe.errors import UserError
from llava_moe.model import BaseFacts, FromCheckpoint, build_base
from llava_moe.model.architecture import resolve
from llava_moe.model.checkpoint_files import read_chat_template
from llava_moe.model.image_processor import ImageMode, read_image_processor
from llava_moe.model.recorded_weights import BaseWeights


def open_checkpoint(
    path: str,
    dtype: str | None = None,
    device: torch.device | None = None,
    *,
    peft: str | None = None,
    template: str | None = None,
    image_mode: ImageMode | None = None,
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> Assembled:
    """A Hugging Face LLaVA checkpoint, asked as its own files say: chat template, image processor; in eval mode.

    What lies beside a PEFT LoRA goes before what lies beside its base: it is nearer to how the model was trained. A
    checkpoint without a chat template is asked in LLaVA-1.5's ``v1``, one without an image processor pads to a square.

    Args:
        path: folder or hub id.
        dtype: ``fp32``, ``bf16`` or ``fp16``; None: bf16 on a GPU, fp32 elsewhere.
        device: None: the first GPU if there is one.
        peft: folder of a PEFT LoRA to put on it, ``modules_to_save`` included.
        template: ``chat`` insists on a chat template, ``v1`` takes LLaVA-1.5's format whatever the files say.
        image_mode: goes before what the image processor says.
        reading: what becomes of images' orientation, transparency and deep values.

    Raises:
        UserError: it is not there, is not of a kind that is read, or its files say what cannot be followed.
    """
    if peft is not None and not (Path(peft).expanduser() / "adapter_config.json").is_file():
        raise UserError(f"model.peft={peft} is not an adapter folder: it has no adapter_config.json")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bf16" if device.type == "cuda" else "fp32")
    base = build_base(FromCheckpoint(path), dtype_of(dtype))
    weights = BaseWeights.of(base.model, FromCheckpoint(path), dtype_of(dtype))
    attention = set_attention(base, "auto", device, dtype_of(dtype))
    places = [str(Path(place).expanduser()) for place in (peft,) if place is not None] + [resolve(path)]
    written = _template_of(base, places, template)
    nearest = read_image_processor(places[0]) if peft is not None else None
    mode = base.image_mode or "pad"
    if nearest is not None and image_mode is None:
        mode = nearest.mode(base.image_size)
    transform = base.family.image_inputs(base, image_mode or mode, nearest)
    encoder = encoder_for(base, written, transform, max_length=4096, over_length="cut", reading=reading)
    attached = attach(base.model, NoAdapter())
    if peft is not None:
        attached.detach()
        attached = load_adapter_with_modules(base.model, Path(peft).expanduser())
    nn.Module.to(base.model, device).eval()
    return Assembled(base, attached, encoder, attention, peft is not None, weights)


def _template_of(base: BaseFacts, places: Sequence[str], wanted: str | None) -> Template | ChatTemplate:
    """The first chat template of these places, or LLaVA-1.5's format."""
    for place in places if wanted != "v1" else ():
        if source := read_chat_template(place):
            written = ChatTemplate(base.tokenizer, source, place)
            written.check()
            return written
    if wanted == "chat":
        raise UserError(f"model.template=chat: {places[-1]} has no chat template; leave model.template= out")
    return Template("v1" if wanted == "v1" else base.family.default_template)
