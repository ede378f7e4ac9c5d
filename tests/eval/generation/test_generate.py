"""Batched greedy generation: what a question is answered does not depend on its batch."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import LlavaMole, attach
from llava_moe.data.conversation import ImageRef
from llava_moe.data.encode import Encoder
from llava_moe.data.images.transform import ImageTransform
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import answer_questions, iterate_answers, question_turns


def random_png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(24, 17, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def make_questions(count: int = 11) -> list[Question]:
    """Prompts of many lengths; every fourth has no image, every fifth has two."""
    questions = []
    for number in range(count):
        num_images = 0 if number % 4 == 3 else 2 if number % 5 == 4 else 1
        images = tuple(random_png(100 * number + place) for place in range(num_images))
        prompt = "What is this? " + "Look well. " * (number * 7 % 6)
        limit = 3 + number % 6
        questions.append(Question(f"q{number}", images, prompt, ("x",), "general", "kind", True, limit))
    return questions


def opened(image: ImageRef) -> Image.Image:
    assert isinstance(image, bytes)
    return Image.open(io.BytesIO(image)).convert("RGB")


def greedy_alone(model: LlavaForConditionalGeneration, encoder: Encoder, question: Question) -> str:
    """The reference: no cache, no padding, one forward pass a token over the whole sequence."""
    answer = greedy_tokens(model, encoder, question, [encoder.tokenizer.eos_token_id])
    return decoded(encoder, answer)


def decoded(encoder: Encoder, tokens: list[int]) -> str:
    return str(encoder.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def greedy_tokens(
    model: LlavaForConditionalGeneration, encoder: Encoder, question: Question, ends: list[Any]
) -> list[int]:
    tokens = list(encoder.encode_prompt(question_turns(question)))
    images = [opened(image) for image in question.images]
    transform = encoder.transform
    assert isinstance(transform, ImageTransform)
    pixels = None
    if images:
        pixels = transform.normalize(torch.from_numpy(np.stack([transform(image) for image in images])))
    answer: list[int] = []
    for _ in range(question.max_new_tokens):
        with torch.no_grad():
            input_ids = torch.tensor([tokens + answer])
            logits = model(input_ids=input_ids, pixel_values=pixels, use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token in ends:
            break
        answer.append(token)
    return answer


def test_answers_equal_greedy_decoding_alone_without_a_cache(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    questions = make_questions()
    expected = [greedy_alone(tiny_llava, encoder, question) for question in questions]
    assert answer_questions(tiny_llava, encoder, questions, batch_size=4) == expected
    assert len(set(expected)) > len(expected) // 2, "the model answers everything alike; the test would prove nothing"


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_answers_do_not_depend_on_the_batch_size(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, batch_size: int
) -> None:
    questions = make_questions(16)
    alone = answer_questions(tiny_llava, encoder, questions, batch_size=1)
    together = answer_questions(tiny_llava, encoder, questions, batch_size=batch_size)
    assert [text.encode() for text in together] == [text.encode() for text in alone]


def test_answers_come_back_in_the_order_of_the_questions(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    questions = make_questions()
    answers = dict(zip([q.id for q in questions], answer_questions(tiny_llava, encoder, questions), strict=True))
    backwards = questions[::-1]
    assert answer_questions(tiny_llava, encoder, backwards) == [answers[question.id] for question in backwards]


def test_the_longest_prompts_are_asked_first(tiny_llava: LlavaForConditionalGeneration, encoder: Encoder) -> None:
    questions = make_questions()
    lengths = [len(encoder.encode_prompt(question_turns(question))) for question in questions]
    order = [generated.index for batch in iterate_answers(tiny_llava, encoder, questions) for generated in batch]
    assert sorted(order) == list(range(len(questions)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)


def test_decoding_stops_at_the_end_of_sequence(tiny_llava: LlavaForConditionalGeneration, encoder: Encoder) -> None:
    question = dataclasses.replace(make_questions(1)[0], max_new_tokens=12)
    [long_answer] = answer_questions(tiny_llava, encoder, [question])
    end = encoder.tokenizer.eos_token_id
    head: Any = tiny_llava.lm_head
    kept = head.forward

    def end_everything(hidden: torch.Tensor) -> torch.Tensor:
        logits = kept(hidden)
        logits[..., end] = logits.max() + 1
        return logits

    head.forward = end_everything
    try:
        assert answer_questions(tiny_llava, encoder, [question]) == [""]
    finally:
        head.forward = kept
    assert long_answer != ""


@pytest.mark.parametrize("place", ["generation_config", "config", "text_config"])
@pytest.mark.parametrize("shares_prefix", [False, True])
def test_decoding_stops_at_any_of_several_end_tokens(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, place: str, shares_prefix: bool
) -> None:
    image = random_png(1)
    asked = [
        dataclasses.replace(question, images=(image,), max_new_tokens=12, prompt=f"What is {number}?")
        for number, question in enumerate(make_questions(4))
    ]

    def ask() -> list[str]:
        batches = iterate_answers(tiny_llava, encoder, asked, batch_size=4, shares_prefix=shares_prefix)
        return [one.text for batch in batches for one in sorted(batch, key=lambda one: one.index)]

    eos = encoder.tokenizer.eos_token_id
    wholes = [greedy_tokens(tiny_llava, encoder, question, [eos]) for question in asked]
    longest = max(wholes, key=len)
    ends = [eos, longest[len(longest) // 2]]
    expected = [greedy_tokens(tiny_llava, encoder, question, ends) for question in asked]
    config = tiny_llava.config
    holder: dict[str, Any] = {
        "generation_config": tiny_llava.generation_config,
        "config": config,
        "text_config": config.text_config,
    }
    before = getattr(holder[place], "eos_token_id", None)
    holder[place].eos_token_id = ends
    try:
        found = ask()
    finally:
        holder[place].eos_token_id = before
    assert found == [decoded(encoder, tokens) for tokens in expected]
    assert sum(map(len, expected)) < sum(map(len, wholes)) and found != ask()


def test_a_model_is_left_in_the_mode_it_came_in(tiny_llava: LlavaForConditionalGeneration, encoder: Encoder) -> None:
    tiny_llava.train()
    try:
        answer_questions(tiny_llava, encoder, make_questions(2))
        assert tiny_llava.training
    finally:
        tiny_llava.eval()


def test_a_sampling_generation_config_of_the_model_is_not_followed(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    questions = make_questions(4)
    greedy = answer_questions(tiny_llava, encoder, questions)
    kept = tiny_llava.generation_config
    tiny_llava.generation_config = type(kept)(do_sample=True, temperature=5.0, top_p=0.9, repetition_penalty=3.0)
    try:
        assert answer_questions(tiny_llava, encoder, questions) == greedy
    finally:
        tiny_llava.generation_config = kept


def test_an_unreadable_image_is_one_line_naming_the_question(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    broken = Question("q-broken", (b"not an image",), "What?", ("x",), "general", "kind", True)
    with pytest.raises(UserError, match="question q-broken: image_unreadable"):
        answer_questions(tiny_llava, encoder, [broken])


def test_a_batch_size_below_one_is_refused(tiny_llava: LlavaForConditionalGeneration, encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        answer_questions(tiny_llava, encoder, make_questions(1), batch_size=0)


def test_answers_of_a_model_with_routed_experts_do_not_depend_on_the_batch(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    questions = make_questions()
    plain = answer_questions(tiny_llava, encoder, questions)
    attached = attach(tiny_llava, LlavaMole(num_experts=3, r=4, lora_alpha=8))
    try:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        alone = answer_questions(tiny_llava, encoder, questions, batch_size=1)
        assert answer_questions(tiny_llava, encoder, questions, batch_size=8) == alone
        assert alone != plain
    finally:
        attached.detach()
    assert answer_questions(tiny_llava, encoder, questions) == plain
