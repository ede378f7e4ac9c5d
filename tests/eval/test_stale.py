"""Answers that stand in the file: they answer to what was shown, asked and scored, not to names."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from llava_moe.data.encode import Encoder
from llava_moe.data.images.transform import ImageTransform
from llava_moe.eval.benchmark import Benchmark, Question
from llava_moe.eval.generation.generate import Generated
from llava_moe.eval.question_hash import question_hash
from llava_moe.eval.ranks import Ranks
from llava_moe.eval.results.scored_run import open_asked, read_scored
from llava_moe.eval.run import answerer_fingerprint, ask_benchmark, model_fingerprint
from llava_moe.eval.tasks import Places, open_benchmark
from tests.eval.tasks.published import LAYOUTS


@dataclass
class Looking:
    """An answerer that says the colour it is shown; ``asked`` are the questions it was asked."""

    asked: list[str] = field(default_factory=list)
    image_root: str | None = None

    def answers(self, questions: Sequence[Question], ranks: Ranks) -> Iterator[list[Generated]]:
        for index, question in enumerate(questions):
            self.asked.append(question.id)
            (image,) = question.images
            assert isinstance(image, str)
            with Image.open(Path(self.image_root or "", image)) as opened:
                yield [Generated(index, f"yes {opened.convert('RGB').getpixel((0, 0))}")]


def repaint(path: Path, color: tuple[int, int, int]) -> None:
    """Another picture under the same name, of the same size in bytes and with the same time."""
    before, stream = path.stat(), io.BytesIO()
    Image.new("RGB", (12, 9), color).save(stream, format="PNG")
    path.write_bytes(stream.getvalue()[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def pope(tmp_path: Path) -> Benchmark:
    if not (tmp_path / "pope").exists():
        LAYOUTS["pope"]["official"](tmp_path / "pope")
    return open_benchmark("pope", places=Places(paths={"pope": str(tmp_path / "pope")}, cache=tmp_path / "cache"))


def score(tmp_path: Path, fingerprint: str = "abc") -> list[str]:
    answerer = Looking()
    ask_benchmark(pope(tmp_path), answerer, tmp_path / "run", fingerprint=fingerprint)
    return answerer.asked


def predictions(tmp_path: Path) -> set[str]:
    return {answer.prediction for answer in read_scored(tmp_path / "run", "run", "pope").answers.values()}


def test_images_replaced_under_the_same_names_are_asked_about_again(tmp_path: Path) -> None:
    everything = score(tmp_path)
    assert everything and score(tmp_path) == []
    old = predictions(tmp_path)
    (picture,) = (tmp_path / "pope" / "val2014").iterdir()
    repaint(picture, (1, 2, 3))
    run = read_scored(tmp_path / "run", "run", "pope")
    benchmark, trouble = open_asked(run)
    assert benchmark is None and trouble is not None and "not what run was scored on" in trouble
    assert score(tmp_path) == everything
    assert predictions(tmp_path) == {"yes (1, 2, 3)"} != old


def test_a_folder_of_images_that_moved_is_not_asked_about_again(tmp_path: Path) -> None:
    score(tmp_path)
    (tmp_path / "pope").rename(tmp_path / "moved")
    (tmp_path / "pope").symlink_to(tmp_path / "moved")
    assert score(tmp_path) == []


def test_a_question_or_its_answer_that_changed_is_asked_again(tmp_path: Path) -> None:
    score(tmp_path)
    lists = sorted((tmp_path / "pope").rglob("*.json"))
    text = lists[0].read_text()
    lists[0].write_text(text.replace('"label": "yes"', '"label": "no"', 1))
    assert len(score(tmp_path)) == 1
    lists[0].write_text(lists[0].read_text().replace("Is there", "Was there", 1))
    assert len(score(tmp_path)) == 1


def test_answers_that_stand_are_scored_as_they_are_scored_now(tmp_path: Path) -> None:
    score(tmp_path)
    path = tmp_path / "run" / "eval" / "pope.answers.jsonl"
    whole = path.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    path.write_text("".join(json.dumps(line | {"score": {"older_scorer": 1.0}}) + "\n" for line in lines))
    assert score(tmp_path) == [] and path.read_text() == whole


def test_an_image_counts_by_its_content_and_page(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "x.tif", tmp_path / "b" / "y.tif"
    for path in (one, other):
        path.parent.mkdir()
        path.write_bytes(b"the same bytes")
    question = Question("q", (str(one),), "What?", ("x",), "all", "kind", False)
    same = replace(question, images=(str(other),))
    assert question_hash(question) == question_hash(same)
    assert question_hash(replace(question, images=("x.tif",)), str(one.parent)) == question_hash(question)
    assert question_hash(replace(question, images=(f"{one}.1",))) != question_hash(question)
    other.write_bytes(b"other bytes...")
    assert question_hash(question) != question_hash(same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_single_weight_of_a_large_tensor_changes_unseen(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(300, 211, bias=False).to(dtype)
    seen = {model_fingerprint(model)}
    for place in (0, 1, 7_777, 300 * 211 - 1):
        with torch.no_grad():
            model.weight.view(-1)[place] += 0.5
        seen.add(model_fingerprint(model))
    with torch.no_grad():  # two values that change places
        flat = model.weight.view(-1)
        flat[[1, 3]] = flat[[3, 1]]
    assert len(seen | {model_fingerprint(model)}) == 6


def test_a_model_that_is_asked_in_another_way_is_another(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    assert isinstance(encoder.transform, ImageTransform)
    other = [
        replace(encoder, transform=replace(encoder.transform, mode="crop")),
        replace(encoder, template=replace(encoder.template, system="You are terse.")),
    ]
    assert len({answerer_fingerprint(tiny_llava, one) for one in (encoder, *other, encoder)}) == 3
