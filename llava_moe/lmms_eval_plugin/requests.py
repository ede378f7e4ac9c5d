"""A request of lmms-eval as one of our questions: text, images, and how its task wants the answer drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from llava_moe.data.conversation import IMAGE_PLACEHOLDER
from llava_moe.data.images.reading import read_orientation
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import ALL_DOMAINS, Decoding, Question

DEFAULT_MAX_NEW_TOKENS = 1024
"""Of a task that says nothing; the same as in lmms-eval's own LLaVA."""

_KNOWN = {"until", "max_new_tokens", "temperature", "top_p", "do_sample", "repetition_penalty", "num_beams", "seed"}
_NO_EFFECT = {"image_aspect_ratio", "skip_special_tokens", "use_cache"}
"""Settings of other models that change nothing here: images are always padded or cut as in training."""
_FORMATS = dict.fromkeys(("1", "L", "LA", "I;16", "P", "RGB", "RGBA"), "PNG") | {"I": "TIFF", "F": "TIFF"}


@dataclass(frozen=True)
class Asked:
    """What a task's ``generation_kwargs`` ask for: how tokens are drawn, and the longest answer."""

    decoding: Decoding
    max_new_tokens: int


def read_generation_kwargs(given: Mapping[str, Any], seed: int = 0) -> Asked:
    """Read ``generation_kwargs``; ``until`` becomes the texts that end an answer.

    ``do_sample`` decides between sampling and the likeliest token; where it is not said, a temperature above 0 samples.
    A temperature of 0 never samples.

    Args:
        seed: of the sampling, where the task gives none.

    Raises:
        UserError: a setting that would change the answers and that we do not have (beams, top-k, ...).
    """
    said = {name: value for name, value in given.items() if value is not None}
    strange = set(said) - _KNOWN - _NO_EFFECT
    if int(said.get("num_beams", 1)) > 1:
        strange.add("num_beams")
    if strange:
        raise UserError(
            f"generation_kwargs {', '.join(sorted(strange))}: llava_moe answers with {', '.join(sorted(_KNOWN))} "
            "(num_beams: 1); set the others to null in the task's yaml"
        )
    until = said.get("until", ())
    stop = tuple(text for text in ([until] if isinstance(until, str) else map(str, until)) if text)
    penalty = float(said.get("repetition_penalty", 1.0))
    decoding = Decoding(repetition_penalty=penalty, stop=stop)
    temperature = float(said.get("temperature", 1.0 if said.get("do_sample") else 0.0))
    if said.get("do_sample", True) and temperature > 0:
        decoding = Decoding(temperature, float(said.get("top_p", 1.0)), penalty, int(said.get("seed", seed)), stop)
    return Asked(decoding, int(said.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)))


def read_question(name: str, context: str, visuals: Sequence[Any] | None, asked: Asked) -> Question:
    """The question of one request.

    ``<image>`` marks in the text are kept where every image has one; where there is no image they are text; else the
    images come before the text, as they do in training.

    Args:
        name: what tells it from all others; the seed of a sampled answer depends on it.
        context: the task's text.
        visuals: Pillow images; none for a question of text alone.

    Raises:
        UserError: videos or sounds, or more marks than images or fewer.
    """
    images = tuple(encode_image(visual, name) for visual in visuals or ())
    num_marks = context.count(IMAGE_PLACEHOLDER)
    if images and num_marks not in (0, len(images)):
        raise UserError(
            f"{name}: {num_marks} {IMAGE_PLACEHOLDER} in its text and {len(images)} images; fix the task, or leave "
            "the marks out: images then come first"
        )
    return Question(
        id=name,
        images=images,
        prompt=context,
        references=(),
        domain=ALL_DOMAINS,
        kind="question",
        closed=False,
        max_new_tokens=asked.max_new_tokens,
        decoding=asked.decoding,
    )


def encode_image(visual: Any, name: str) -> bytes:
    """A Pillow image as PNG or TIFF, which lose nothing, its orientation and transparency kept.

    Raises:
        UserError: it is a video's path, a sound or anything else that is no image.
    """
    if not isinstance(visual, Image.Image):
        kind = type(visual).__name__
        raise UserError(f"{name}: holds a {kind} where llava_moe takes images; choose a task of images")
    stream = io.BytesIO()
    kept = visual
    if visual.mode.startswith("I;16") and visual.mode not in _FORMATS:
        kept = visual.convert("I")
    elif visual.mode not in _FORMATS:
        kept = visual.convert("RGBA" if visual.has_transparency_data else "RGB")
    orientation = Image.Exif()
    if (turned := read_orientation(visual)) != 1:
        # The model decides what becomes of it, as of any image.
        orientation[ExifTags.Base.Orientation] = turned
    kept.save(stream, format=_FORMATS[kept.mode], compress_level=1, exif=orientation)
    return stream.getvalue()
