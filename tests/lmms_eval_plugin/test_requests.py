"""What a task of lmms-eval asks for becomes the question that our engine answers, or one clear line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from llava_moe.data.images.reading import AS_LLAVA, ImageReading
from llava_moe.data.images.transform import open_image
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Decoding
from llava_moe.lmms_eval_plugin.requests import Asked, encode_image, read_generation_kwargs, read_question

GREEDY = Asked(Decoding(), 16)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Asked(Decoding(), 1024)),
        ({"max_new_tokens": 16, "temperature": 0, "do_sample": False, "until": []}, Asked(Decoding(), 16)),
        ({"max_new_tokens": None, "num_beams": 1, "until": ["\n\n"]}, Asked(Decoding(stop=("\n\n",)), 1024)),
        ({"until": "###"}, Asked(Decoding(stop=("###",)), 1024)),
        ({"until": None, "temperature": 0.2}, Asked(Decoding(0.2, seed=7), 1024)),
        ({"temperature": 0.2, "do_sample": False}, Asked(Decoding(), 1024)),
        ({"temperature": 0, "do_sample": True}, Asked(Decoding(), 1024)),
        ({"do_sample": True, "top_p": 0.9}, Asked(Decoding(1.0, 0.9, seed=7), 1024)),
        ({"repetition_penalty": 10.0, "max_new_tokens": 256}, Asked(Decoding(repetition_penalty=10.0), 256)),
        ({"temperature": 0.5, "seed": 3, "image_aspect_ratio": "original"}, Asked(Decoding(0.5, seed=3), 1024)),
    ],
)  # fmt: skip
def test_generation_kwargs_are_read_as_lmms_evals_own_models_read_them(given: dict[str, Any], expected: Asked) -> None:
    assert read_generation_kwargs(given, seed=7) == expected


@pytest.mark.parametrize("given", [{"num_beams": 4}, {"top_k": 5}, {"max_agentic_steps": 2}])
def test_what_would_change_answers_and_we_do_not_have_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(given))):
        read_generation_kwargs(given)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_an_image_reaches_the_model_with_the_pixels_that_a_file_of_it_would_give(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (9, 12), dtype=np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 200) if mode in ("I;16", "I") else Image.fromarray(values)
    image = image.convert(mode) if image.mode != mode else image
    image.save(tmp_path / "image.tif")
    expected = open_image(str(tmp_path / "image.tif"))
    assert np.array_equal(np.asarray(open_image(encode_image(image, "q"))), np.asarray(expected))


def test_deep_values_in_the_other_byte_order_are_not_clipped_to_white() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (9, 12)).astype(">u2")
    image = Image.frombytes("I;16B", (12, 9), values.tobytes())
    assert np.array_equal(np.asarray(open_image(encode_image(image, "q")))[..., 0], np.rint(values / 257))


def test_orientation_and_transparency_reach_the_model_which_decides_of_them() -> None:
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 12, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    stream = io.BytesIO()
    drawn.save(stream, "PNG", exif=exif)
    given = Image.open(io.BytesIO(stream.getvalue()))
    for reading in (ImageReading(), AS_LLAVA, ImageReading(alpha="black")):
        reached = open_image(encode_image(given, "q"), reading=reading)
        assert reached.tobytes() == open_image(stream.getvalue(), reading=reading).tobytes()


def test_a_text_alone_has_no_image_and_its_marks_are_words() -> None:
    nothing: tuple[list[Any] | None, ...] = (None, [])
    for visuals in nothing:
        question = read_question("t/test/0", "What does <image> mean?", visuals, GREEDY)
        assert question.images == () and question.prompt == "What does <image> mean?"


def test_marks_stay_where_every_image_has_one() -> None:
    images = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (0, 200)]
    apart = read_question("q", "Is <image> darker than <image>?", images, GREEDY)
    assert apart.prompt == "Is <image> darker than <image>?" and len(apart.images) == 2
    assert read_question("q", "Which is darker?", images, GREEDY).prompt == "Which is darker?"
    with pytest.raises(UserError, match="1 <image> in its text and 2 images"):
        read_question("q", "<image> Which?", images, GREEDY)


def test_a_video_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match=r"clips/test/3: holds a str where llava_moe takes images"):
        read_question("clips/test/3", "What happens?", ["clip.mp4"], GREEDY)
