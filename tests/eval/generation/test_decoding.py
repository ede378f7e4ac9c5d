"""How protocols draw: the penalty counts the answer's own tokens, a sample depends on its question alone."""

from __future__ import annotations

import dataclasses
import io
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from llava_moe.data.conversation import ImageRef
from llava_moe.data.encode import Encoder
from llava_moe.data.images.transform import ImageTransform
from llava_moe.eval.benchmark import GREEDY, Decoding, Question
from llava_moe.eval.generation.decoding import GumbelNoise, logits_processors
from llava_moe.eval.generation.generate import answer_questions, question_turns
from llava_moe.eval.question_hash import question_hash


def make_questions(count: int, decoding: Decoding, system: str | None = None) -> list[Question]:
    questions = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, size=(24, 17, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        prompt = "What is this? " + "Look well. " * (number * 7 % 6)
        questions.append(
            Question(f"q{number}", (stream.getvalue(),), prompt, ("x",), "general", "kind", True, 8, decoding, system)
        )
    return questions


def opened(image: ImageRef) -> Image.Image:
    assert isinstance(image, bytes)
    return Image.open(io.BytesIO(image)).convert("RGB")


def penalised_alone(model: LlavaForConditionalGeneration, encoder: Encoder, question: Question) -> str:
    """The reference: no cache, no padding; CTRL's penalty (arXiv:1909.05858) over the answer's tokens."""
    tokens = list(encoder.encode_prompt(question_turns(question)))
    transform = encoder.transform
    assert isinstance(transform, ImageTransform)
    pixels = transform.normalize(torch.from_numpy(np.stack([transform(opened(image)) for image in question.images])))
    answer: list[int] = []
    for _ in range(question.max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens + answer]), pixel_values=pixels, use_cache=False).logits[
                0, -1
            ]
        for token in set(answer):
            penalty = question.decoding.repetition_penalty
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        token = int(logits.argmax())
        if token == encoder.tokenizer.eos_token_id:
            break
        answer.append(token)
    return str(encoder.tokenizer.decode(answer, skip_special_tokens=True)).strip()


def test_the_repetition_penalty_counts_the_answers_own_tokens_only(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    questions = make_questions(6, Decoding(repetition_penalty=10.0))
    expected = [penalised_alone(tiny_llava, encoder, question) for question in questions]
    assert answer_questions(tiny_llava, encoder, questions, batch_size=4) == expected
    plain = [dataclasses.replace(question, decoding=GREEDY) for question in questions]
    assert answer_questions(tiny_llava, encoder, plain) != expected


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_sampled_answer_does_not_depend_on_its_batch_nor_on_torchs_generator(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder, top_p: float
) -> None:
    questions = make_questions(9, Decoding(temperature=0.8, top_p=top_p, seed=3))
    alone = answer_questions(tiny_llava, encoder, questions, batch_size=1)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert answer_questions(tiny_llava, encoder, questions[::-1], batch_size=4) == alone[::-1]
    assert torch.equal(torch.get_rng_state(), state)
    greedy = [dataclasses.replace(question, decoding=GREEDY) for question in questions]
    others = [dataclasses.replace(one, decoding=Decoding(temperature=0.8, top_p=top_p, seed=4)) for one in questions]
    assert alone != answer_questions(tiny_llava, encoder, greedy)
    assert alone != answer_questions(tiny_llava, encoder, others)


def test_samples_follow_the_softmax() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    ids = [str(number) for number in range(6000)]
    prompts = cast(torch.LongTensor, torch.zeros(len(ids), 1, dtype=torch.long))
    noisy = GumbelNoise(0, ids)(prompts, cast(torch.FloatTensor, logits.expand(len(ids), 3)))
    shares = torch.bincount(noisy.argmax(-1), minlength=3) / len(ids)
    # Three standard deviations of a share of 6,000 draws are below 0.02.
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.02)


def test_greedy_decoding_has_no_processor() -> None:
    assert len(logits_processors(GREEDY, ["a"], 5)) == 0


def test_a_questions_system_prompt_replaces_the_models_own(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    asked = make_questions(3, GREEDY, system="You are terse.")
    told = dataclasses.replace(encoder, template=dataclasses.replace(encoder.template, system="You are terse."))
    own = [dataclasses.replace(question, system=None) for question in asked]
    assert answer_questions(tiny_llava, encoder, asked) == answer_questions(tiny_llava, told, own)
    assert answer_questions(tiny_llava, encoder, asked) != answer_questions(tiny_llava, encoder, own)


def test_questions_that_differ_in_their_decoding_are_not_asked_together(
    tiny_llava: LlavaForConditionalGeneration, encoder: Encoder
) -> None:
    mixed = make_questions(1, GREEDY) + make_questions(1, Decoding(temperature=1.0))
    with pytest.raises(ValueError, match="share their decoding"):
        answer_questions(tiny_llava, encoder, mixed)


def test_stale_answers_are_told_by_prompt_decoding_and_system_and_not_by_where_images_lie() -> None:
    question = Question("q", ("/here/val2014/a.jpg",), "What?", ("x",), "all", "kind", False)
    # Answers of the version before protocols stand: what is at its default adds nothing.
    moved = dataclasses.replace(question, images=("/there/val2014/a.jpg",))
    assert question_hash(moved) == question_hash(question)
    changed = [
        dataclasses.replace(question, images=("/here/val2014/b.jpg",)),
        dataclasses.replace(question, prompt="What?\nAnswer briefly."),
        dataclasses.replace(question, max_new_tokens=17),
        dataclasses.replace(question, decoding=Decoding(repetition_penalty=10.0)),
        dataclasses.replace(question, decoding=Decoding(temperature=0.2)),
        dataclasses.replace(question, decoding=Decoding(temperature=0.2, seed=1)),
        dataclasses.replace(question, system=""),
    ]
    assert len({question_hash(one) for one in [question, *changed]}) == len(changed) + 1
