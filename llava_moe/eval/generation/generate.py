"""Batched answers of a Hugging Face LLaVA model: left padding, key-value cache, batches of like length.

Legend: B questions of a batch, T tokens of its longest prompt (image places included).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from transformers import GenerationConfig, LlavaForConditionalGeneration

from llava_moe.data.conversation import IMAGE_PLACEHOLDER, USER, Turn
from llava_moe.data.encode import Encoder
from llava_moe.data.end_tokens import end_token_ids
from llava_moe.data.images.deep_values import DarkImage
from llava_moe.data.images.inputs import SeenImage, inputs_of, see
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import GREEDY, Question
from llava_moe.eval.generation.decoding import StopTexts, cut_at_stop, logits_processors
from llava_moe.eval.generation.deduplicate_questions import group_alike
from llava_moe.eval.generation.question_images import image_sizes, open_images
from llava_moe.eval.generation.rounds import generate_in_rounds
from llava_moe.eval.generation.shared_prefix import order_by_image, read_prefix, shared_length
from llava_moe.eval.ranks import ALONE, Ranks
from llava_moe.kv_cache import cache_name

PromptWriter = Callable[[Question], np.ndarray]
"""Token ids int64 [t] to generate from, images expanded."""


@dataclass(frozen=True)
class Generated:
    """The text that answers ``questions[index]``, outer blanks stripped."""

    index: int
    text: str


class Answerer(Protocol):
    """Whatever answers questions: a model here, or one behind an address."""

    def answers(self, questions: Sequence[Question], ranks: Ranks) -> Iterator[list[Generated]]:
        """This process's share of the answers, in any order, some at a time; the shares of all are the questions."""
        ...


@dataclass(frozen=True)
class LocalModel:
    """A model in this process's memory; see :func:`iterate_answers`.

    Attributes:
        dark: images met on the way that came out nearly black.
    """

    model: LlavaForConditionalGeneration
    encoder: Encoder
    batch_size: int = 32
    image_root: str | None = None
    write_prompt: PromptWriter | None = None
    shares_prefix: bool = False
    dark: list[DarkImage] = field(default_factory=list)

    def answers(self, questions: Sequence[Question], ranks: Ranks) -> Iterator[list[Generated]]:
        """See :class:`Answerer`."""
        return iterate_answers(
            self.model,
            self.encoder,
            questions,
            batch_size=self.batch_size,
            image_root=self.image_root,
            write_prompt=self.write_prompt,
            shares_prefix=self.shares_prefix,
            ranks=ranks,
            on_dark=self.dark.append,
        )


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
    write_prompt: PromptWriter | None = None,
    shares_prefix: bool = False,
    ranks: Ranks = ALONE,
    on_dark: Callable[[DarkImage], None] | None = None,
) -> Iterator[list[Generated]]:
    """Answers, one batch at a time, the longest prompts first so that memory runs out early or not at all.

    Questions that are put alike are asked once (see ``alike.py``).

    Every question is one user turn with its images in front, or the conversation that it has. Decoding stops at any of
    the model's end tokens, at the question's own ``max_new_tokens`` or where the model's positions end, so an answer
    does not depend on its batch (up to the rounding of batched matrix products); a sampled one neither. The batches
    themselves do not depend on the number of processes.

    Args:
        model: a LLaVA model, adapters attached; put into eval mode while it answers and back after each batch.
        encoder: writes prompts and pixels as training did.
        questions: what to ask.
        batch_size: questions asked together.
        image_root: folder that image paths are relative to.
        write_prompt: what writes the prompts; None: the encoder, as training did.
        shares_prefix: questions about one image are asked together, and it is read once for all of them; only for
            models in which no token depends on a later one (see ``prefix.py``), and without a sliding window.
        ranks: the processes that share the batches; this one's are yielded.
        on_dark: told of each image that comes out nearly black.

    Raises:
        UserError: an image is missing or unreadable, or a prompt leaves the model no position to answer in.
        ValueError: ``batch_size`` is below 1, or the questions' decodings differ.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len({question.decoding for question in questions}) > 1:
        raise ValueError("questions that are asked together must share their decoding")
    prompts = [*map(write_prompt or trained_prompts(encoder, image_root), questions)]
    _refuse_too_long(model, questions, prompts)
    alike = {group[0]: group for group in group_alike(questions, prompts)}
    # A cache with a sliding window drops the tokens of a prefix that it holds for several questions.
    shares_prefix = shares_prefix and getattr(model.config.get_text_config(), "sliding_window", None) is None
    order = _order(questions, prompts, [*alike], shares_prefix)
    batches = ranks.share([order[start : start + batch_size] for start in range(0, len(order), batch_size)])

    def seen(chosen: Sequence[int]) -> list[list[SeenImage]]:
        opened = (open_images(questions[index], image_root, encoder.reading, on_dark) for index in chosen)
        return [[see(encoder.transform, image) for image in images] for images in opened]

    # The images of the next batch are opened while this one is answered.
    with ThreadPoolExecutor(1) as opener:
        opened = opener.submit(seen, batches[0]) if batches else None
        for number, chosen in enumerate(batches):
            assert opened is not None
            images = opened.result()
            if number + 1 < len(batches):
                opened = opener.submit(seen, batches[number + 1])
            asked = [questions[index] for index in chosen]
            written = [prompts[index] for index in chosen]
            num_shared = shared_length(asked, written, encoder.image_token_id) if shares_prefix else 0
            texts = _answer_batch(model, encoder, asked, written, images, num_shared)
            pairs = zip(chosen, texts, strict=True)
            yield [Generated(index, text) for first, text in pairs for index in alike[first]]


def _order(
    questions: Sequence[Question], prompts: Sequence[np.ndarray], chosen: Sequence[int], shares_prefix: bool
) -> list[int]:
    """The chosen indices, the longest prompts first; with a shared prefix, questions about one image together."""
    if shares_prefix:
        places = order_by_image([questions[index] for index in chosen], [len(prompts[index]) for index in chosen])
        return [chosen[place] for place in places]
    return sorted(chosen, key=lambda index: (-len(prompts[index]), index))


def trained_prompts(encoder: Encoder, image_root: str | None = None) -> PromptWriter:
    """Writes prompts as training did, but for the system prompt where a question has its own."""
    writers: dict[str | None, Encoder] = {None: encoder}

    def write(question: Question) -> np.ndarray:
        if question.system not in writers:
            writers[question.system] = with_system(encoder, question.system)
        turns = question_turns(question)
        sizes = image_sizes(question, encoder, image_root)
        return writers[question.system].encode_prompt(turns, images_by_turn(turns, question), sizes)

    return write


def _refuse_too_long(
    model: LlavaForConditionalGeneration, questions: Sequence[Question], prompts: Sequence[np.ndarray]
) -> None:
    num_positions = _num_positions(model)
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) >= num_positions:
            raise UserError(
                f"question {question.id} is {len(prompt)} tokens long, images included, and the model has "
                f"{num_positions} positions: shorten the question or leave it out"
            )


def with_system(encoder: Encoder, system: str | None) -> Encoder:
    """The encoder with another sentence before the first turn; None keeps its own."""
    return encoder if system is None else replace(encoder, template=replace(encoder.template, system=system))


def question_turns(question: Question) -> list[Turn]:
    """The question as one user turn, a placeholder a line before the text for each image; any other is text.

    A question with a conversation is that conversation; without its images, that without their marks.
    """
    if not question.turns:
        return [Turn(USER, f"{IMAGE_PLACEHOLDER}\n" * len(question.images) + question.prompt)]
    return [*question.turns] if question.images else without_images(question.turns)


def without_images(turns: Sequence[Turn]) -> list[Turn]:
    """A conversation in words alone: without the marks of images, and without the turns that showed one and no word.

    Such a turn leaves with its answer.
    """
    bare: list[Turn] = []
    for turn in turns:
        text = turn.text.replace(f"{IMAGE_PLACEHOLDER}\n", "").replace(IMAGE_PLACEHOLDER, "").strip()
        is_answer_to_nothing = turn.role != USER and (not bare or bare[-1].role != USER)
        if text and not is_answer_to_nothing:
            bare.append(turn if IMAGE_PLACEHOLDER not in turn.text else replace(turn, text=text))
    return bare


def images_by_turn(turns: Sequence[Turn], question: Question) -> list[int]:
    """How many images each turn of :func:`question_turns` shows: where there is a conversation, as many as it marks."""
    if not question.turns:
        return [len(question.images)]
    return [turn.text.count(IMAGE_PLACEHOLDER) if turn.role == USER else 0 for turn in turns]


def _num_positions(model: LlavaForConditionalGeneration) -> int:
    return int(model.config.get_text_config().max_position_embeddings)


def _answer_batch(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    questions: Sequence[Question],
    prompts: Sequence[np.ndarray],
    images: Sequence[Sequence[SeenImage]],
    num_shared: int = 0,
) -> list[str]:
    """``num_shared`` tokens are read once for each image; the padding then stands behind them."""
    num_positions, decoding = _num_positions(model), questions[0].decoding
    limits = [
        min(question.max_new_tokens, num_positions - len(prompt))
        for question, prompt in zip(questions, prompts, strict=True)
    ]
    end_tokens = end_token_ids(model, encoder.tokenizer)
    settings = greedy(encoder, max(limits), end_tokens)
    with answering(model), torch.inference_mode():
        if num_shared:
            inputs = _inputs_behind(prompts, num_shared, model, encoder)
            cache = read_prefix(model, encoder, questions, prompts[0][:num_shared], images)
            if decoding == GREEDY:
                answers = generate_in_rounds(model, inputs, cache, settings, limits, end_tokens)
            else:
                given: dict[str, Any] = {**inputs, cache_name(type(model).forward): cache}
                answers = _generate(model, encoder, questions, given, settings)
        else:
            inputs = prompt_inputs(model, encoder, prompts, [one for of_question in images for one in of_question])
            answers = _generate(model, encoder, questions, inputs, settings)
    return [
        decode_answer(encoder, answer[:limit], decoding.stop, end_tokens)
        for answer, limit in zip(answers, limits, strict=True)
    ]


def _inputs_behind(
    prompts: Sequence[np.ndarray], num_shared: int, model: LlavaForConditionalGeneration, encoder: Encoder
) -> dict[str, torch.Tensor]:
    """Prompts that begin alike, padded behind what they share."""
    inputs = prompt_inputs(model, encoder, [prompt[num_shared:] for prompt in prompts], [])
    head_BP = torch.from_numpy(prompts[0][:num_shared]).to(inputs["input_ids"].device).expand(len(prompts), -1)
    return {
        "input_ids": torch.cat([head_BP, inputs["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones_like(head_BP), inputs["attention_mask"]], dim=1),
    }


def _generate(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    questions: Sequence[Question],
    inputs: Mapping[str, Any],
    settings: GenerationConfig,
) -> list[list[int]]:
    """The tokens of each answer, drawn as the questions say; all as long as the longest."""
    decoding, num_prompt_tokens = questions[0].decoding, inputs["input_ids"].shape[1]
    arguments: dict[str, Any] = {
        "logits_processor": logits_processors(decoding, [question.id for question in questions], num_prompt_tokens)
    }
    if decoding.stop:
        arguments["stopping_criteria"] = [StopTexts(encoder.tokenizer, decoding.stop, num_prompt_tokens)]
    # transformers types `generate` for a protocol its own LLaVA class does not match.
    sequences_BT = cast(Any, model).generate(**inputs, generation_config=settings, **arguments)
    answers: list[list[int]] = sequences_BT[:, num_prompt_tokens:].tolist()
    return answers


def prompt_inputs(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    prompts: Sequence[np.ndarray],
    images: Sequence[SeenImage],
) -> dict[str, torch.Tensor]:
    """What ``generate`` is called with, on the model's device: prompts padded on the left, and what images become.

    Args:
        prompts: token ids, int64 [t] each, images expanded.
        images: those of all prompts in their order.
    """
    input_ids_BT, attention_mask_BT = _pad_left(prompts, encoder.pad_token_id)
    device = next(model.parameters()).device
    inputs = {"input_ids": input_ids_BT.to(device), "attention_mask": attention_mask_BT.to(device)}
    # The tower stands first, so its dtype is the model's.
    return inputs | (inputs_of(encoder.transform, images, device, model.dtype) if images else {})


def greedy(encoder: Encoder, max_new_tokens: int, end_tokens: Sequence[int] = ()) -> GenerationConfig:
    """Greedy decoding to one of the end tokens; none named: to the tokenizer's."""
    # Written out in full: what is left unset is taken from the model's own file, and Vicuna's samples.
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        repetition_penalty=1.0,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_tokens) or encoder.tokenizer.eos_token_id,
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


def decode_answer(encoder: Encoder, tokens: list[int], stop: Sequence[str] = (), end_tokens: Sequence[int] = ()) -> str:
    """The text of an answer's tokens up to the first end token or stop string, outer blanks stripped.

    Args:
        end_tokens: none named: the tokenizer's.
    """
    ends = end_tokens or (encoder.tokenizer.eos_token_id,)
    kept = tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
    return cut_at_stop(str(encoder.tokenizer.decode(kept, skip_special_tokens=True)), stop).strip()


@contextmanager
def answering(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode while this lasts, and the mode that was before after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
