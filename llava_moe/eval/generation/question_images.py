"""The images of a question, opened as the model is to see them, and their sizes where prompts depend on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from PIL import Image

from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import Encoder
from llava_moe.data.images.deep_values import DarkImage
from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.transform import read_image
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question


def open_images(
    question: Question,
    image_root: str | None = None,
    reading: ImageReading = ImageReading(),  # noqa: B008
    on_dark: Callable[[DarkImage], None] | None = None,
) -> list[Image.Image]:
    """A question's images as the model is to see them, 8-bit RGB.

    Raises:
        UserError: one is missing or unreadable.
    """
    try:
        opened = [read_image(image, image_root, reading=reading) for image in question.images]
    except BadRecord as error:
        raise UserError(f"question {question.id}: {error}; fix the image or leave the question out") from error
    for ref, one in zip(question.images, opened, strict=True):
        if one.dark is not None and on_dark is not None:
            on_dark(one.dark if isinstance(ref, str) else replace(one.dark, name=f"an image of question {question.id}"))
    return [one.image for one in opened]


def image_sizes(question: Question, encoder: Encoder, image_root: str | None = None) -> list[ImageSize]:
    """The sizes of a question's images; empty, and nothing opened, where all images take equally many tokens."""
    if encoder.has_equal_images:
        return []
    return [image.size for image in open_images(question, image_root, encoder.reading)]
