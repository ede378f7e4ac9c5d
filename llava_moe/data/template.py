"""Conversation to text with the character spans to supervise: LLaVA-1.5's ``v1`` and ``plain``.

Source: haotian-liu/LLaVA, llava/conversation.py (``conv_vicuna_v1``, ``conv_llava_plain``) and llava/train/train.py
(``preprocess_multimodal``, ``preprocess_v1``, ``preprocess_plain``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llava_moe.data.conversation import (
    ASSISTANT,
    IMAGE_PLACEHOLDER,
    USER,
    BadRecord,
    Conversation,
    Turn,
    merge_turns,
    settle_turns,
)

VICUNA_V1_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Rendered:
    """``text`` with ``<image>`` where images stand; ``spans`` are the half-open character ranges to supervise."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Template:
    """How turns are written.

    ``v1``: ``{system} USER: <image>\\n{q} ASSISTANT: {a}</s>USER: {q} ASSISTANT: {a}</s>``; a span runs from the blank
    behind ``ASSISTANT:`` through ``</s>``. ``plain`` (stage 1): ``<image>{caption}\\n``, the question is thrown
    away and everything behind the image is supervised.

    Attributes:
        system: the sentence before the first turn; ``""`` writes neither it nor its blank.
        eos: the text of the tokenizer's end token.
    """

    kind: Literal["v1", "plain"] = "v1"
    system: str = VICUNA_V1_SYSTEM
    eos: str = "</s>"

    def __post_init__(self) -> None:
        if self.kind not in ("v1", "plain"):
            raise ValueError(f"template kind must be 'v1' or 'plain', got {self.kind!r}")

    def render(self, conversation: Conversation) -> Rendered:
        """Write a whole conversation.

        Raises:
            BadRecord: the turns do not settle (see ``settle_turns``), a question is empty, or ``plain`` is given more
                than one question or a question without an image.
        """
        turns = settle_turns(conversation.turns)
        if self.kind == "plain":
            return _render_plain(turns)
        text = self._opening()
        spans = []
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            text += f"{_question(question)} ASSISTANT:"
            start = len(text)
            text += f" {answer.text}{self.eos}"
            spans.append((start, len(text)))
        return Rendered(text, tuple(spans))

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text a model is to continue, from turns that end with a question; ``v1`` ends with ``ASSISTANT:``.

        Raises:
            ValueError: the turns do not alternate or do not end with the user.
        """
        merged = merge_turns(turns)
        if len(merged) % 2 == 0 or any(turn.role != (USER, ASSISTANT)[i % 2] for i, turn in enumerate(merged)):
            raise ValueError(f"a prompt needs turns user, assistant, ..., user, got {[turn.role for turn in turns]}")
        if self.kind == "plain":
            return IMAGE_PLACEHOLDER * merged[-1].text.count(IMAGE_PLACEHOLDER)
        text = self._opening()
        for question, answer in zip(merged[:-1:2], merged[1::2], strict=True):
            text += f"{_question(question)} ASSISTANT: {answer.text}{self.eos}"
        return f"{text}{_question(merged[-1])} ASSISTANT:"

    def _opening(self) -> str:
        return f"{self.system} " if self.system else ""


def _question(turn: Turn) -> str:
    """``USER: `` and the text, its images moved to the front, a line each, as ``preprocess_multimodal`` does."""
    text = turn.text
    places = text.count(IMAGE_PLACEHOLDER)
    if places:
        # LLaVA strips only turns that hold an image, and keeps one image a turn; here each image keeps its place.
        text = (f"{IMAGE_PLACEHOLDER}\n" * places + text.replace(IMAGE_PLACEHOLDER, "").strip()).strip()
    if not text.strip():
        raise BadRecord("empty_question", "a question is blank and has no image")
    return f"USER: {text}"


def _render_plain(turns: tuple[Turn, ...]) -> Rendered:
    if len(turns) != 2:
        raise BadRecord("not_plain", f"the plain template takes one image and one caption, got {len(turns)} turns")
    places = turns[0].text.count(IMAGE_PLACEHOLDER)
    if not places:
        raise BadRecord("not_plain", f"the plain template needs {IMAGE_PLACEHOLDER} in the first turn")
    opening = IMAGE_PLACEHOLDER * places
    text = f"{opening}{turns[1].text}\n"
    return Rendered(text, ((len(opening), len(text)),))


_JINJA_V1 = """\
{%- set opening = SYSTEM -%}
{%- set turns = messages -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set opening = messages[0]['content'] -%}
{%- if opening is not string -%}
{%- set opening = opening | map(attribute='text') | join('\\n') -%}
{%- endif -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{%- if opening %}{{ opening + ' ' }}{% endif -%}
{%- for message in turns -%}
{%- if message['content'] is string -%}
{%- set images = message['content'].count('<image>') -%}
{%- set text = message['content'].replace('<image>', '') -%}
{%- else -%}
{%- set images = message['content'] | selectattr('type', 'equalto', 'image') | list | length -%}
{%- set text = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\\n') -%}
{%- endif -%}
{%- if images -%}
{%- set text = ('<image>\\n' * images + text.strip()).strip() -%}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{ 'USER: ' + text + ' ' }}
{%- else -%}
{{ 'ASSISTANT: ' + text + EOS }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif -%}
"""

_JINJA_PLAIN = """\
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set images = message['content'].count('<image>') -%}
{%- set text = message['content'].replace('<image>', '') -%}
{%- else -%}
{%- set images = message['content'] | selectattr('type', 'equalto', 'image') | list | length -%}
{%- set text = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\\n') -%}
{%- endif -%}
{%- if message['role'] == 'user' -%}{{ '<image>' * images }}{%- else -%}{{ text + '\\n' }}{%- endif -%}
{%- endfor -%}
"""


def chat_template(template: Template) -> str:
    """Jinja source for a Hugging Face processor that writes what ``template`` writes.

    Message contents may be strings with ``<image>`` or lists of ``{"type": "image"}`` and ``{"type": "text", ...}``.
    A first message of the role ``system`` takes the place of the template's own sentence.
    Turns are taken as settled: roles must alternate already.
    """
    if template.kind == "plain":
        return _JINJA_PLAIN

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    return _JINJA_V1.replace("SYSTEM", quoted(template.system)).replace("EOS", quoted(template.eos))
