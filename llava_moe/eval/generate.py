"""Batched answers of a Hugging Face LLaVA model: left padding, key-value cache, batches of like length.

Legend: B questions of a batch, T tokens of its longest prompt (image places included), I images of the batch, H W
pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig, LlavaForConditionalGeneration

from llava_moe.data.conversation import IMAGE_PLACEHOLDER, USER, BadRecord, Turn
from llava_moe.data.encode import Encoder
from llava_moe.data.images import open_image
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.decoding import logits_processors


@dataclass(frozen=True)
class Generated:
    """The text that answers ``questions[index]``, outer blanks stripped."""

    index: int
    text: str


def answer_questions(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    questions: Sequence[Question],
    *,
    batch_size: int = 32,
    image_root: str | None = None,
) -> list[str]:
    """Answers in the order of the questions; see :func:`iterate_answers`."""
    texts = [""] * len(questions)
    for batch in iterate_answers(model, encoder, questions, batch_size=batch_size, image_root=image_root):
        for generated in batch:
            texts[generated.index] = generated.text
    return texts


def iterate_answers(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    questions: Sequence[Question],
    *,
    batch_size: int = 32,
    image_root: str | None = None,
) -> Iterator[list[Generated]]:
    """Answers, one batch at a time, the longest prompts first so that memory runs out early or not at all.

    Every question is one user turn with its images in front. Decoding stops at the end of sequence or at the
    question's own ``max_new_tokens``, so an answer does not depend on its batch (up to the rounding of batched matrix
    products); a sampled one neither.

    Args:
        model: a LLaVA model, adapters attached; put into eval mode while it answers and back after each batch.
        encoder: writes prompts and pixels as training did.
        questions: what to ask.
        batch_size: questions asked together.
        image_root: folder that image paths are relative to.

    Raises:
        UserError: an image is missing or unreadable.
        ValueError: ``batch_size`` is below 1, or the questions' decodings differ.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len({question.decoding for question in questions}) > 1:
        raise ValueError("questions that are asked together must share their decoding")
    writers = {system: with_system(encoder, system) for system in {question.system for question in questions}}
    prompts = [writers[question.system].encode_prompt(question_turns(question)) for question in questions]
    order = sorted(range(len(questions)), key=lambda index: (-len(prompts[index]), index))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        texts = _answer_batch(
            model, encoder, [questions[index] for index in chosen], [prompts[index] for index in chosen], image_root
        )
        yield [Generated(index, text) for index, text in zip(chosen, texts, strict=True)]


def with_system(encoder: Encoder, system: str | None) -> Encoder:
    """The encoder with another sentence before the first turn; None keeps its own."""
    return encoder if system is None else replace(encoder, template=replace(encoder.template, system=system))


def question_turns(question: Question) -> list[Turn]:
    """The question as one user turn, a placeholder a line before the text for each image."""
    return [Turn(USER, f"{IMAGE_PLACEHOLDER}\n" * len(question.images) + question.prompt)]


def _answer_batch(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    questions: Sequence[Question],
    prompts: Sequence[np.ndarray],
    image_root: str | None,
) -> list[str]:
    pixels = [encoder.transform(image) for question in questions for image in _open_images(question, image_root)]
    inputs = prompt_inputs(model, encoder, prompts, pixels)
    limits = [question.max_new_tokens for question in questions]
    num_prompt_tokens = inputs["input_ids"].shape[1]
    processors = logits_processors(questions[0].decoding, [question.id for question in questions], num_prompt_tokens)
    with answering(model), torch.inference_mode():
        # transformers types `generate` for a protocol its own LLaVA class does not match.
        sequences_BT = cast(Any, model).generate(
            **inputs, generation_config=greedy(encoder, max(limits)), logits_processor=processors
        )
    answers_BT = sequences_BT[:, num_prompt_tokens:].tolist()
    return [decode_answer(encoder, answer_T[:limit]) for answer_T, limit in zip(answers_BT, limits, strict=True)]


def prompt_inputs(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    prompts: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray],
) -> dict[str, torch.Tensor]:
    """What ``generate`` is called with, on the model's device: prompts padded on the left, pixels normalised.

    Args:
        prompts: token ids, int64 [t] each, images expanded.
        pixels: uint8 [3, H, W] each, the images of all prompts in their order.
    """
    input_ids_BT, attention_mask_BT = _pad_left(prompts, encoder.pad_token_id)
    device = next(model.parameters()).device
    inputs = {"input_ids": input_ids_BT.to(device), "attention_mask": attention_mask_BT.to(device)}
    if pixels:
        pixels_I3HW = torch.from_numpy(np.stack(pixels)).to(device)
        dtype = next(cast(Any, model).model.vision_tower.parameters()).dtype
        inputs["pixel_values"] = encoder.transform.normalise(pixels_I3HW).to(dtype)
    return inputs


def greedy(encoder: Encoder, max_new_tokens: int) -> GenerationConfig:
    """Greedy decoding to the tokenizer's end token."""
    # Written out in full: what is left unset is taken from the model's own file, and Vicuna's samples.
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        repetition_penalty=1.0,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=encoder.tokenizer.eos_token_id,
        pad_token_id=encoder.pad_token_id,
    )


def _pad_left(prompts: Sequence[np.ndarray], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    input_ids_BT = torch.full((len(prompts), longest), pad_token_id, dtype=torch.long)
    attention_mask_BT = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids_BT[row, longest - len(prompt) :] = torch.from_numpy(prompt)
        attention_mask_BT[row, longest - len(prompt) :] = 1
    return input_ids_BT, attention_mask_BT


def _open_images(question: Question, image_root: str | None) -> list[Image.Image]:
    try:
        return [open_image(image, image_root) for image in question.images]
    except BadRecord as error:
        raise UserError(f"question {question.id}: {error}; mend the image or leave the question out") from error


def decode_answer(encoder: Encoder, tokens: list[int]) -> str:
    """The text of an answer's tokens up to the end token, outer blanks stripped."""
    eos_token_id = encoder.tokenizer.eos_token_id
    kept = tokens[: tokens.index(eos_token_id)] if eos_token_id in tokens else tokens
    return str(encoder.tokenizer.decode(kept, skip_special_tokens=True)).strip()


@contextmanager
def answering(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode while this lasts, and the mode that was before after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
