"""What encodes data for a model: the template and lengths of a specification on a base's tokenizer and image size."""

from __future__ import annotations

from typing import Literal

from llava_moe.assemble.spec import ModelSpec
from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.encode import Encoder
from llava_moe.data.images.inputs import ImageInputs
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.template import Template
from llava_moe.errors import UserError
from llava_moe.model import BaseFacts, read_base


def encoder_of(model_spec: ModelSpec) -> Encoder:
    """The encoder that :func:`new_model` would give, from configurations and tokenizer alone: no weight is read.

    Raises:
        UserError: configurations or the tokenizer are not there, or not of the kind that LLaVA is made of.
    """
    return encoder_on_base(model_spec, read_base(model_spec.architecture))


def encoder_on_base(model_spec: ModelSpec, base: BaseFacts) -> Encoder:
    """The encoder that a specification asks for, of a base that was read already."""
    transform = base.family.image_inputs(base, model_spec.image_mode)
    return encoder_for(
        base, model_spec.template, transform, model_spec.max_length, model_spec.over_length, model_spec.reading
    )


def encoder_for(
    base: BaseFacts,
    template: Template | ChatTemplate,
    transform: ImageInputs,
    max_length: int,
    over_length: Literal["cut", "drop"],
    reading: ImageReading,
) -> Encoder:
    """An encoder of a base's tokenizer and image tokens, all else as given.

    Raises:
        UserError: the tokenizer cannot write the template.
    """
    try:
        return Encoder(
            tokenizer=base.tokenizer,
            template=template,
            transform=transform,
            image_token_id=base.image_token_id,
            num_image_tokens=base.num_image_tokens,
            max_length=max_length,
            over_length=over_length,
            reading=reading,
        )
    except ValueError as error:
        raise UserError(
            f"the model's tokenizer cannot write LLaVA-1.5's template ({error}): take a checkpoint of its kind, or "
            "give it that tokenizer"
        ) from error
