"""Evaluation items that stand in a mixture, planted one by one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_moe.datatools.check.eval_sets import asked_of
from llava_moe.datatools.check.train_eval_overlap import IMAGE, IMAGE_AND_QUESTION, find_trained
from llava_moe.eval.benchmark import Question
from tests.datatools.check.conftest import MakeView, say
from tests.datatools.check.seeded import noise


def ask(name: str, image: bytes | str, prompt: str) -> Question:
    return Question(name, (image,), prompt, ("yes",), "general", "kind", True)


def saved(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **({"compress_level": 1} if kind == "PNG" else {}))
    return stream.getvalue()


def test_images_are_found_by_bytes_and_by_pixels_and_questions_with_them(
    make_view: MakeView, pictures: list[str], tmp_path: Path
) -> None:
    view = make_view([say(name, f"<image>\nWhat is in {name}?", "noise") for name in pictures[:4]])
    questions = [
        ask("same question", (tmp_path / "0.png").read_bytes(), "What is in 0.png?"),
        ask("other case", str(tmp_path / "1.png"), "what is in 1.PNG"),
        ask("other question", (tmp_path / "2.png").read_bytes(), "Who painted it?"),
        ask("saved again", saved(noise(3), "BMP"), "Where was it?"),
        ask("another's question", (tmp_path / "4.png").read_bytes(), "What is in 0.png?"),
        ask("new", saved(noise(99), "PNG"), "What is in 5.png?"),
    ]
    found = find_trained([view], [asked_of("set", questions), asked_of("empty", questions[5:])])
    assert found.items["set"] == {
        "same question": IMAGE_AND_QUESTION,
        "other case": IMAGE_AND_QUESTION,
        "other question": IMAGE,
        "saved again": IMAGE,
    }
    assert found.items["empty"] == {} and found.num_unseen == {"set": 0, "empty": 0}
    assert (found.num_records, found.num_images, found.troubles) == (4, 4, [])


@pytest.mark.parametrize("num_processes", [1, 2])
def test_what_is_found_does_not_depend_on_the_processes(
    make_view: MakeView, pictures: list[str], tmp_path: Path, num_processes: int
) -> None:
    views = [
        make_view([say(name, "<image> What?", "noise") for name in part], label)
        for label, part in (("a", pictures[:3]), ("b", pictures[2:5]))
    ]
    asked = asked_of("set", [ask(name, str(tmp_path / name), "What?") for name in pictures])
    found = find_trained(views, [asked], num_processes)
    assert found.items["set"] == dict.fromkeys(pictures[:5], IMAGE_AND_QUESTION)


def test_a_source_whose_images_are_not_there_is_told_and_no_clean_bill(
    make_view: MakeView, pictures: list[str], tmp_path: Path
) -> None:
    lost = make_view([say(f"gone/{name}", "<image> What?", "noise") for name in pictures], "lost")
    asked = asked_of("set", [ask("one", str(tmp_path / pictures[0]), "What?")])
    found = find_trained([lost], [asked])
    assert [trouble.label for trouble in found.troubles] == ["lost"] and found.num_records == 0


def test_an_image_of_the_set_that_cannot_be_opened_is_counted(make_view: MakeView, pictures: list[str]) -> None:
    view = make_view([say(pictures[0], "<image> What?", "noise")])
    found = find_trained([view], [asked_of("set", [ask("broken", b"no image", "What?")])])
    assert found.num_unseen == {"set": 1} and found.items == {"set": {}}


def test_text_alone_is_no_leak(make_view: MakeView, pictures: list[str]) -> None:
    view = make_view([say(None, "What is in it?", "noise")])
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    found = find_trained([view], [asked_of("set", [ask("one", saved(picture, "PNG"), "What is in it?")])])
    assert found.items == {"set": {}}
