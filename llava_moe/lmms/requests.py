"""A request of lmms-eval as one of our questions: text, images, and how its task wants the answer drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from llava_moe.data.conversation import IMAGE_PLACEHOLDER
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import ALL_DOMAINS, Decoding, Question

DEFAULT_MAX_NEW_TOKENS = 1024
"""Of a task that says nothing; the same as in lmms-eval's own LLaVA."""

_NO_EFFECT = {"image_aspect_ratio", "skip_special_tokens", "use_cache", "visual_cot"}
"""Settings of other models that change nothing here: images are always padded or cut as in training."""
_KNOWN = {"until", "max_new_tokens", "temperature", "top_p", "do_sample", "repetition_penalty", "num_beams", "seed"}
_PNG_MODES = {"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"}


@dataclass(frozen=True)
class Asked:
    """What a task's ``generation_kwargs`` ask for.

    Attributes:
        decoding: how tokens are drawn.
        max_new_tokens: longest answer.
        until: texts that end an answer; they and what follows are cut off.
    """

    decoding: Decoding
    max_new_tokens: int
    until: tuple[str, ...]

    def cut(self, answer: str) -> str:
        """The answer up to the first of the texts that end it, outer blanks stripped."""
        ends = [answer.find(stop) for stop in self.until]
        return answer[: min([end for end in ends if end >= 0], default=len(answer))].strip()


def read_generation_kwargs(given: Mapping[str, Any], seed: int) -> Asked:
    """Read ``generation_kwargs``.

    ``do_sample`` decides between sampling and the likeliest token; where it is not said, a temperature above 0 samples.
    A temperature of 0 never samples.

    Args:
        seed: of the sampling, where the task gives none.

    Raises:
        UserError: a setting that would change the answers and that we do not have (beams, top-k, ...).
    """
    strange = {name for name, value in given.items() if name not in _KNOWN | _NO_EFFECT and value is not None}
    if int(given.get("num_beams") or 1) > 1:
        strange.add("num_beams")
    if strange:
        raise UserError(
            f"generation_kwargs {', '.join(sorted(strange))}: not among what llava_moe answers with "
            f"({', '.join(sorted(_KNOWN))}); set them to null with --gen_kwargs or in the task's yaml"
        )
    temperature = given.get("temperature")
    samples = bool(given.get("do_sample", (temperature or 0) > 0))
    temperature = 1.0 if temperature is None else float(temperature)
    decoding = Decoding(repetition_penalty=float(given.get("repetition_penalty") or 1.0))
    if samples and temperature > 0:
        top_p = 1.0 if given.get("top_p") is None else float(given["top_p"])
        decoding = Decoding(temperature, top_p, decoding.repetition_penalty, int(given.get("seed", seed)))
    until = given.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(str(stop) for stop in until)
    longest = given.get("max_new_tokens")
    return Asked(
        decoding, DEFAULT_MAX_NEW_TOKENS if longest is None else int(longest), tuple(stop for stop in stops if stop)
    )


def read_question(name: str, context: str, visuals: Sequence[Any] | None, asked: Asked) -> Question:
    """The question of one request.

    Args:
        name: what tells it from all others; the seed of a sampled answer depends on it.
        context: the task's text. ``<image>`` marks at its beginning are left out, since images come first anyway.
        visuals: Pillow images; none for a question of text alone.

    Raises:
        UserError: videos or sounds, or images between words.
    """
    images = tuple(encode_image(visual, name) for visual in visuals or ())
    return Question(
        id=name,
        images=images,
        prompt=_without_marks(context, len(images), name),
        references=(),
        domain=ALL_DOMAINS,
        kind="question",
        closed=False,
        max_new_tokens=asked.max_new_tokens,
        decoding=asked.decoding,
    )


def _without_marks(context: str, num_images: int, name: str) -> str:
    rest = context
    while rest.lstrip().startswith(IMAGE_PLACEHOLDER):
        rest = rest.lstrip().removeprefix(IMAGE_PLACEHOLDER)
    if num_images == 0:
        # The words of a text that speaks of the mark; there is no image to stand there.
        return context.replace(IMAGE_PLACEHOLDER, "").strip()
    if IMAGE_PLACEHOLDER in rest:
        raise UserError(
            f"{name}: its images stand between words, and llava_moe reads images before the question; choose a task "
            "whose images come first"
        )
    return rest.lstrip() if rest is not context else context


def encode_image(visual: Any, name: str) -> bytes:
    """A Pillow image as PNG, which loses nothing.

    Raises:
        UserError: it is a video's path, a sound or anything else that is no image.
    """
    if not isinstance(visual, Image.Image):
        raise UserError(
            f"{name}: holds a {type(visual).__name__} where llava_moe takes images; choose a task of images"
        )
    stream = io.BytesIO()
    kept = visual if visual.mode in _PNG_MODES else visual.convert("RGB")
    kept.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
