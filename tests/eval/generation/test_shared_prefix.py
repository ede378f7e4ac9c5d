"""Images that several questions ask about are read once, and every answer is what it is without that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from llava_moe.adapters import LlavaMole, attach
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import LocalModel, answer_questions
from llava_moe.eval.generation.shared_prefix import order_by_image, shared_length
from llava_moe.eval.ranks import ALONE, Ranks
from tests.eval.generation.test_generate import make_questions, random_png


def questions_about_few_images(count: int = 24) -> list[Question]:
    """Four questions an image, scattered, of many lengths."""
    return [
        replace(question, images=(random_png(number * 11 % 24 // 4),))
        for number, question in enumerate(make_questions(count))
    ]


def shared(
    model: Any, encoder: Any, questions: list[Question], batch_size: int, ranks: Ranks = ALONE
) -> dict[int, str]:
    engine = LocalModel(model, encoder, batch_size, shares_prefix=True)
    return {one.index: one.text for batch in engine.answers(questions, ranks) for one in batch}


@pytest.fixture(params=["bare", "llava_mole"])
def model(request: pytest.FixtureRequest, tiny_llava: Any) -> Any:
    if request.param == "bare":
        yield tiny_llava
        return
    attached = attach(tiny_llava, LlavaMole(num_experts=3, r=4, lora_alpha=8))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    yield tiny_llava
    attached.detach()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 24])
def test_answers_are_those_of_questions_asked_alone(model: Any, encoder: Any, batch_size: int) -> None:
    questions = questions_about_few_images()
    alone = answer_questions(model, encoder, questions, batch_size=1)
    assert len(set(alone)) > len(questions) // 3
    assert shared(model, encoder, questions, batch_size) == dict(enumerate(alone))


def test_questions_without_an_image_or_with_two_are_answered_as_alone(tiny_llava: Any, encoder: Any) -> None:
    two = (random_png(1), random_png(2))
    questions = make_questions(8) + [replace(question, images=two) for question in make_questions(8)]
    questions = [replace(question, id=f"q{number}") for number, question in enumerate(questions)]
    alone = answer_questions(tiny_llava, encoder, questions, batch_size=1)
    for batch_size in (3, 5, 16):
        assert shared(tiny_llava, encoder, questions, batch_size) == dict(enumerate(alone))


def test_the_tower_sees_each_image_of_a_batch_once(tiny_llava: Any, encoder: Any) -> None:
    seen: list[int] = []
    tower = tiny_llava.model.vision_tower
    hook = tower.register_forward_pre_hook(
        lambda _, inputs, named: seen.append(len(inputs[0] if inputs else named["pixel_values"])), with_kwargs=True
    )
    try:
        shared(tiny_llava, encoder, questions_about_few_images(), 8)
        assert seen == [2, 2, 2]
        seen.clear()
        answer_questions(tiny_llava, encoder, questions_about_few_images(), batch_size=8)
        assert seen == [8, 8, 8]
    finally:
        hook.remove()


def test_ranks_ask_each_question_once(tiny_llava: Any, encoder: Any) -> None:
    questions = questions_about_few_images()
    whole = shared(tiny_llava, encoder, questions, 5)
    parts = [shared(tiny_llava, encoder, questions, 5, Ranks(rank, 3)) for rank in range(3)]
    assert sorted(index for part in parts for index in part) == list(range(len(questions)))
    assert {index: text for part in parts for index, text in part.items()} == whole


def test_questions_about_one_image_stand_together_the_longest_first() -> None:
    questions = [
        replace(make_questions(1)[0], images=(name.encode(),) if name else ()) for name in ["a", "b", "", "a", "b", ""]
    ]
    assert order_by_image(questions, [5, 9, 7, 8, 1, 6]) == [1, 4, 3, 0, 2, 5]


def test_nothing_is_shared_where_the_text_before_an_image_differs() -> None:
    same = [replace(make_questions(1)[0], images=(b"a",))] * 2
    image = 3
    assert shared_length(same, [np.array([1, 3, 3, 7, 8]), np.array([1, 3, 3, 7, 9])], image) == 4
    assert shared_length(same, [np.array([1, 3, 3, 7]), np.array([1, 3, 3, 7])], image) == 3
    assert shared_length(same, [np.array([1, 7, 3, 3, 8]), np.array([1, 6, 3, 3, 8])], image) == 0
    assert shared_length(same, [np.array([1, 3, 7, 3, 8]), np.array([1, 3, 6, 3, 8])], image) == 0
