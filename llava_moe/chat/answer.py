"""One answer to a prompt, handed on as its tokens come.

Legend: T tokens of the prompt, image places included; H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from transformers import GenerationConfig, LlavaForConditionalGeneration
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from llava_moe.data.encode import Encoder
from llava_moe.data.end_tokens import end_token_ids
from llava_moe.data.images.inputs import SeenImage
from llava_moe.errors import UserError
from llava_moe.eval.generation.generate import answering, decode_answer, greedy, prompt_inputs

OnText = Callable[[str], None]
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What bytes decode to that begin a character whose rest is still to come."""

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 takes the likeliest token each time; above 0 the logits are divided by it and sampled from.
        top_p: samples from the fewest tokens that hold this much probability together; 1 takes all.
        repetition_penalty: a token that the answer already holds has its logit divided by this (multiplied where it is
            negative), as in CTRL (arXiv:1909.05858); the prompt's tokens do not count. 1 changes nothing.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def config(self, encoder: Encoder, max_new_tokens: int, end_tokens: Sequence[int] = ()) -> GenerationConfig:
        """The settings of one call of ``generate``; the repetition penalty is not among them."""
        config = greedy(encoder, max_new_tokens, end_tokens)
        if self.temperature > 0:
            # top_k is written out: transformers would keep 50 tokens.
            config.update(do_sample=True, temperature=float(self.temperature), top_p=float(self.top_p), top_k=0)
        return config


@dataclass(frozen=True)
class Answer:
    """The text, outer blanks stripped, and what ended it.

    ``end``: one of the model's end tokens; ``limit``: ``max_new_tokens``; ``positions``: the model has no more of them;
    ``interrupted``: Ctrl-C.
    """

    text: str
    ended: Literal["end", "limit", "positions", "interrupted"]


def generate_answer(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    prompt_T: np.ndarray,
    images: Sequence[SeenImage],
    decoding: Decoding,
    on_text: OnText,
) -> Answer:
    """Answer one prompt; greedily it is, word for word, what evaluation's ``answer_questions`` gives.

    Args:
        prompt_T: token ids int64 [T], images expanded.
        images: in the order of the prompt.
        on_text: gets the answer piece by piece; the pieces joined are the answer.

    Raises:
        UserError: the prompt leaves the model no position to answer in, or the device no memory.
    """
    num_positions = int(model.config.get_text_config().max_position_embeddings)
    room = num_positions - len(prompt_T)
    if room < 1:
        raise UserError(
            f"the conversation is {len(prompt_T)} tokens long and the model has {num_positions} positions: ask less, "
            "take the last question back, or begin a new conversation"
        )
    limit = min(decoding.max_new_tokens, room)
    end_tokens = end_token_ids(model, encoder.tokenizer)
    flow = TextFlow(encoder, on_text, end_tokens)
    inputs = prompt_inputs(model, encoder, [prompt_T], images)
    # transformers' own setting would also punish the words of the question.
    penalty = RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty), prompt_ignore_length=len(prompt_T))
    arguments: dict[str, Any] = {"generation_config": decoding.config(encoder, limit, end_tokens), "streamer": flow}
    if decoding.repetition_penalty != 1:
        arguments["logits_processor"] = [penalty]
    try:
        with answering(model), torch.inference_mode():
            cast(Any, model).generate(**inputs, **arguments)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device has no memory for a conversation of {len(prompt_T)} tokens: take the last question back, "
            "begin a new conversation, or start with dtype=bf16"
        ) from error
    except KeyboardInterrupt:
        flow.end()
        return Answer(flow.text, "interrupted")
    if flow.tokens and flow.tokens[-1] in end_tokens:
        return Answer(flow.text, "end")
    return Answer(flow.text, "limit" if decoding.max_new_tokens <= room else "positions")


class TextFlow(BaseStreamer):
    """Turns the tokens that ``generate`` hands over into text, and passes on what can no longer change.

    Trap: transformers' ``TextStreamer`` decodes each line by itself, where Llama's tokenizers lose the blank in front.
    Here the whole answer is decoded each time.

    Attributes:
        tokens: the answer's tokens so far.
        text: the answer so far, outer blanks stripped.
    """

    def __init__(self, encoder: Encoder, on_text: OnText, end_tokens: Sequence[int] = ()) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self._encoder, self._on_text, self._end_tokens = encoder, on_text, end_tokens
        self._passed_on = ""
        self._has_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (first call, passed over) or the next token."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        self.tokens += value.flatten().tolist()
        self.text = decode_answer(self._encoder, self.tokens, end_tokens=self._end_tokens)
        settled = self.text.rstrip(INCOMPLETE)
        if self._is_written_out(self.tokens[-1]) and settled.startswith(self._passed_on):
            self._pass_on(settled)

    def end(self) -> None:
        """Pass on the rest."""
        self._pass_on(self.text)

    def _is_written_out(self, token: int) -> bool:
        """Whether no later token changes the text up to this one.

        Llama's byte tokens in a row are decoded as one: until another token ends them, one more may make all of them
        invalid. Special tokens, and numbers that the padded table has over, are skipped and end nothing.
        """
        tokenizer = self._encoder.tokenizer
        piece = tokenizer.convert_ids_to_tokens(token)
        return isinstance(piece, str) and token not in tokenizer.all_special_ids and not BYTE_TOKEN.fullmatch(piece)

    def _pass_on(self, text: str) -> None:
        # A tokenizer that joins punctuation to the word before it may have changed what was passed on already.
        same = [ours == theirs for ours, theirs in zip(text, self._passed_on, strict=False)]
        if piece := text[[*same, False].index(False) :]:
            self._passed_on = text
            self._on_text(piece)
