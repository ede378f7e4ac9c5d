"""A checkpoint's own prompt format: the chat template in its files, in the place of LLaVA-1.5's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from llava_moe.data.conversation import (
    ASSISTANT,
    IMAGE_PLACEHOLDER,
    USER,
    BadRecord,
    Conversation,
    Turn,
    count_placeholders,
    merge_turns,
    settle_turns,
)
from llava_moe.data.template import Rendered, count_images
from llava_moe.data.timeout_process import ends_within
from llava_moe.data.tokens import Tokens
from llava_moe.errors import UserError

Message = dict[str, Any]
MOST_SECONDS, MOST_BYTES = 5, 1 << 30


@dataclass(frozen=True)
class ChatTemplate:
    """Writes turns as a Jinja template says. It stands where :class:`~llava_moe.data.template.Template` does.

    Attributes:
        tokenizer: applies the template; its end token ends answers.
        source: the template, Jinja.
        place: where the template is from, for error messages.
        system: the text before the first turn; None leaves it to the template.
    """

    tokenizer: PreTrainedTokenizerBase
    source: str
    place: str
    system: str | None = None

    @property
    def kind(self) -> Literal["chat"]:
        return "chat"

    @property
    def eos(self) -> str:
        """The text of the tokenizer's end token."""
        return str(self.tokenizer.eos_token)

    def check(self) -> None:
        """Ask about an image, for the error alone.

        Raises:
            UserError: as :meth:`prompt`, or the template does not end.
        """
        asked = [Turn(USER, f"{IMAGE_PLACEHOLDER}\nIs this a probe?")]
        # Jinja's sandbox keeps a template from the machine, not from loops inside loops.
        if not ends_within(partial(self.prompt, asked), MOST_SECONDS, MOST_BYTES):
            raise UserError(
                f"the chat template of {self.place} takes more than {MOST_SECONDS} s or {MOST_BYTES >> 30} GiB for one "
                "question: add model.template=v1 for LLaVA-1.5's own format"
            )
        self.prompt(asked)

    @cached_property
    def tokens(self) -> Tokens:
        """What knows the tokenizer's control tokens."""
        return Tokens(self.tokenizer.backend_tokenizer)

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text of :meth:`render_prompt`."""
        return self.render_prompt(turns).text

    def render_prompt(self, turns: Sequence[Turn], num_images: Sequence[int] | None = None) -> Rendered:
        """What a model is to continue, without the tokenizer's first token, from turns that end with a question.

        Args:
            num_images: see :meth:`~llava_moe.data.template.Template.render_prompt`.

        Raises:
            ValueError: the turns do not alternate or do not end with the user.
            UserError: the template fails, or leaves out an image, a text or the system prompt.
        """
        merged = merge_turns(turns)
        if len(merged) % 2 == 0 or any(turn.role != (USER, ASSISTANT)[i % 2] for i, turn in enumerate(merged)):
            raise ValueError(f"a prompt needs turns user, assistant, ..., user, got {[turn.role for turn in turns]}")
        disguised, system, letters = self._disguise(merged, self.system, num_images)
        text = self._write(disguised, system, is_answered=False)
        return Rendered(self.tokens.reveal(text, letters), (), self.tokens.spelled(text))

    def render(self, conversation: Conversation, num_images: Sequence[int] | None = None) -> Rendered:
        """Write a whole conversation, its supervised answers and the end tokens behind them in spans.

        Args:
            num_images: as for :meth:`render_prompt`, of the settled turns.

        Raises:
            BadRecord: the turns do not settle, no answer is supervised, or the template writes an answer elsewhere than
                behind its prompt.
            UserError: as :meth:`render_prompt`.
        """
        settled = settle_turns(conversation.turns)
        own = self.system if conversation.system is None else conversation.system
        turns, system, letters = self._disguise(settled, own, num_images)
        text = self._write(turns, system, is_answered=True)
        spans, ends = [], []
        for number in range(1, len(turns), 2):
            prompt, answer = self._write(turns[:number], system, is_answered=False), turns[number].text.strip()
            found = text.find(answer, len(prompt)) if text.startswith(prompt) else -1
            if found < 0 or text[len(prompt) : found].strip():
                raise BadRecord("not_chat", f"the chat template of {self.place} writes no answer behind its prompt")
            end = found + len(answer)
            ends.append(end + len(self.eos) if text.startswith(self.eos, end) else end)
            if turns[number].is_supervised:
                spans.append((len(prompt), ends[-1]))
        if not spans:
            raise BadRecord("nothing_supervised", "no answer of the record is to be learned from")
        return Rendered(self.tokens.reveal(text, letters), tuple(spans), self.tokens.spelled(text), tuple(ends))

    def _disguise(
        self, turns: Sequence[Turn], system: str | None, num_images: Sequence[int] | None
    ) -> tuple[list[Turn], str | None, int]:
        """Turns and system text in which what people spelled like a control token passes through the template unseen.

        ``<image>`` is left where images stand. The last value is what :meth:`Tokens.reveal` needs.
        """
        letters = self.tokens.free_letters(self.source, system or "", *(turn.text for turn in turns))
        hidden = []
        for turn, count in zip(turns, count_images(turns, num_images), strict=True):
            pieces = turn.text.split(IMAGE_PLACEHOLDER, count) if count else [turn.text]
            text = IMAGE_PLACEHOLDER.join(self.tokens.disguise(piece, letters) for piece in pieces)
            hidden.append(replace(turn, text=text))
        return hidden, None if system is None else self.tokens.disguise(system, letters), letters

    def _write(self, turns: Sequence[Turn], system: str | None, *, is_answered: bool) -> str:
        for messages in _spellings(turns, system):
            text = self._render(messages, is_answered)
            if text is not None and _is_whole(text, turns, system):
                return text.removeprefix(self.tokenizer.bos_token or "")
        what = "a question with its images" if system is None else "a system prompt, which this protocol has,"
        raise UserError(
            f"the chat template of {self.place} does not take {what}: add model.template=v1 for LLaVA-1.5's own format"
        )

    def _render(self, messages: list[Message], is_answered: bool) -> str | None:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, chat_template=self.source, tokenize=False, add_generation_prompt=not is_answered
            )
        except (TemplateError, TypeError, LookupError, ValueError, AttributeError, ArithmeticError, RecursionError):
            return None  # not this spelling
        return str(text)


def _spellings(turns: Sequence[Turn], system: str | None) -> list[list[Message]]:
    """The messages with parts, as processors' templates take them, and as text alone, as tokenizers' do."""
    parts = [{"role": turn.role, "content": _parts(turn.text)} for turn in turns]
    plain = [{"role": turn.role, "content": _image_first(turn.text)} for turn in turns]
    if system is None:
        return [parts, plain]
    told = {"role": "system", "content": [{"type": "text", "text": system}]}
    return [[told, *parts], [{"role": "system", "content": system}, *plain]]


def _is_whole(text: str, turns: Sequence[Turn], system: str | None) -> bool:
    # Templates strip outer blanks; a list of parts that was written as it stands shows its quotes.
    pieces = [piece.strip() for turn in turns for piece in turn.text.split(IMAGE_PLACEHOLDER)]
    if system is not None:
        pieces.append(system.strip())
    shows_parts = "'type'" in text and not any("'type'" in piece for piece in pieces)
    has_images = text.count(IMAGE_PLACEHOLDER) == count_placeholders(turns)
    return has_images and not shows_parts and all(piece in text for piece in pieces)


def _image_first(text: str) -> str:
    """A turn's text, its image moved to a line in front where it has exactly one, as LLaVA does."""
    if text.count(IMAGE_PLACEHOLDER) != 1:
        return text
    return f"{IMAGE_PLACEHOLDER}\n{text.replace(IMAGE_PLACEHOLDER, '').strip()}".rstrip("\n")


def _parts(text: str) -> list[dict[str, str]]:
    """A turn's text as a list of images and texts; blanks between an image and a text are the template's to write."""
    before, *behind = _image_first(text).split(IMAGE_PLACEHOLDER)
    parts = [{"type": "text", "text": before.strip() if behind else before}]
    for piece in behind:
        parts += [{"type": "image"}, {"type": "text", "text": piece.strip()}]
    return [part for part in parts if part["type"] == "image" or part["text"]]
