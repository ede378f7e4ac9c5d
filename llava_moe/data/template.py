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
from llava_moe.data.jinja_template import JINJA_PLAIN, JINJA_V1

VICUNA_V1_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
Span = tuple[int, int]
"""Half-open, in characters."""


@dataclass(frozen=True)
class Rendered:
    """A conversation or a prompt as text.

    Attributes:
        text: ``<image>`` where images stand.
        spans: what is supervised.
        marks: where the template wrote a control token or ``<image>``; the same letters anywhere else were written by a
            person and are text. None: the whole text is the template's.
        pair_ends: where each question-answer pair ends; None: where each span ends.
    """

    text: str
    spans: tuple[Span, ...]
    marks: tuple[Span, ...] | None = None
    pair_ends: tuple[int, ...] | None = None

    @property
    def ends(self) -> tuple[int, ...]:
        """Where the text may be cut: the ends of its question-answer pairs."""
        return tuple(end for _, end in self.spans) if self.pair_ends is None else self.pair_ends


@dataclass(frozen=True)
class Template:
    """How turns are written.

    ``v1``: ``{system} USER: <image>\\n{q} ASSISTANT: {a}</s>USER: {q} ASSISTANT: {a}</s>``; a span runs from the blank
    behind ``ASSISTANT:`` through ``</s>``, and an answer that is not supervised has none. A turn with exactly one image
    has it moved to its front; with two or more, each stays where it stands. ``plain`` (stage 1):
    ``<image>{caption}\\n``, question and system prompt are thrown away and everything behind the image is supervised.

    Attributes:
        system: the sentence before the first turn, where a conversation has none of its own; ``""`` writes neither it
            nor its blank.
        eos: the text of the tokenizer's end token.
    """

    kind: Literal["v1", "plain"] = "v1"
    system: str = VICUNA_V1_SYSTEM
    eos: str = "</s>"

    def __post_init__(self) -> None:
        if self.kind not in ("v1", "plain"):
            raise ValueError(f"template kind must be 'v1' or 'plain', got {self.kind!r}")

    def render(self, conversation: Conversation, num_images: Sequence[int] | None = None) -> Rendered:
        """Write a whole conversation.

        Args:
            num_images: as for ``render_prompt``, of the settled turns.

        Raises:
            BadRecord: the turns do not settle (see ``settle_turns``), a question is empty, no answer is supervised, or
                ``plain`` is given more than one question or a question without an image.
        """
        turns = settle_turns(conversation.turns)
        counts = count_images(turns, num_images)
        writing = _Writing()
        if self.kind == "plain":
            _write_plain(writing, turns, counts[0])
        else:
            self._write_opening(writing, conversation.system)
            for place in range(0, len(turns), 2):
                _write_question(writing, turns[place], counts[place])
                self._write_answer(writing, turns[place + 1])
        if not writing.spans:
            raise BadRecord("nothing_supervised", "no answer of the record is to be learned from")
        return writing.rendered()

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text of :meth:`render_prompt`."""
        return self.render_prompt(turns).text

    def render_prompt(self, turns: Sequence[Turn], num_images: Sequence[int] | None = None) -> Rendered:
        """What a model is to continue, from turns that end with a question; ``v1`` ends with ``ASSISTANT:``.

        Args:
            num_images: how many images each turn shows: its first so many ``<image>`` are their places, any other is
                text. None: every ``<image>`` in a question is a place. In an answer it is always text.

        Raises:
            ValueError: the turns do not alternate or do not end with the user.
        """
        merged = merge_turns(turns)
        if len(merged) % 2 == 0 or any(turn.role != (USER, ASSISTANT)[i % 2] for i, turn in enumerate(merged)):
            raise ValueError(f"a prompt needs turns user, assistant, ..., user, got {[turn.role for turn in turns]}")
        counts = count_images(merged, num_images)
        writing = _Writing()
        if self.kind == "plain":
            for _ in range(counts[-1]):
                writing.mark(IMAGE_PLACEHOLDER)
            return writing.rendered()
        self._write_opening(writing, None)
        for place in range(0, len(merged) - 1, 2):
            _write_question(writing, merged[place], counts[place])
            self._write_answer(writing, merged[place + 1])
        writing.spans.clear()
        _write_question(writing, merged[-1], counts[-1])
        writing.write(" ASSISTANT:")
        return writing.rendered()

    def _write_opening(self, writing: _Writing, system: str | None) -> None:
        opening = self.system if system is None else system
        writing.write(f"{opening} " if opening else "")

    def _write_answer(self, writing: _Writing, answer: Turn) -> None:
        writing.write(" ASSISTANT:")
        start = writing.length
        writing.write(f" {answer.text}")
        writing.mark(self.eos)
        if answer.is_supervised:
            writing.spans.append((start, writing.length))
        writing.pair_ends.append(writing.length)


class _Writing:
    """Text that grows, with what stands where in it."""

    def __init__(self) -> None:
        self.length = 0
        self.spans: list[Span] = []
        self.pair_ends: list[int] = []
        self._parts: list[str] = []
        self._marks: list[Span] = []

    def write(self, text: str) -> None:
        """Append letters that are read as letters."""
        self._parts.append(text)
        self.length += len(text)

    def mark(self, token: str) -> None:
        """Append a control token or the place of an image."""
        self._marks.append((self.length, self.length + len(token)))
        self.write(token)

    def rendered(self) -> Rendered:
        return Rendered("".join(self._parts), tuple(self.spans), tuple(self._marks), tuple(self.pair_ends))


def count_images(turns: Sequence[Turn], num_images: Sequence[int] | None) -> list[int]:
    """How many images each turn shows; none in an answer."""
    if num_images is not None and len(num_images) != len(turns):
        raise ValueError(f"num_images is for {len(num_images)} turns, and there are {len(turns)}")
    counts = []
    for place, turn in enumerate(turns):
        marked = turn.text.count(IMAGE_PLACEHOLDER) if turn.role == USER else 0
        counts.append(marked if num_images is None else num_images[place])
        if counts[-1] > marked:
            raise ValueError(f"turn {place} shows {counts[-1]} images and marks {marked}")
    return counts


def _write_question(writing: _Writing, turn: Turn, num_images: int) -> None:
    """``USER: `` and the text; an image alone in its turn is moved to the front, as ``preprocess_multimodal`` does."""
    pieces = turn.text.split(IMAGE_PLACEHOLDER, num_images) if num_images else [turn.text]
    if num_images == 1:
        # LLaVA strips only turns that hold an image, and keeps one image a turn.
        bare = "".join(pieces).strip()
        pieces = ["", f"\n{bare}" if bare else ""]
    if not num_images and not turn.text.strip():
        raise BadRecord("empty_question", "a question is blank and has no image")
    writing.write(f"USER: {pieces[0]}")
    for piece in pieces[1:]:
        writing.mark(IMAGE_PLACEHOLDER)
        writing.write(piece)


def _write_plain(writing: _Writing, turns: tuple[Turn, ...], num_images: int) -> None:
    if len(turns) != 2:
        raise BadRecord("not_plain", f"the plain template takes one image and one caption, got {len(turns)} turns")
    if not num_images:
        raise BadRecord("not_plain", f"the plain template needs {IMAGE_PLACEHOLDER} in the first turn")
    for _ in range(num_images):
        writing.mark(IMAGE_PLACEHOLDER)
    start = writing.length
    writing.write(f"{turns[1].text}\n")
    if turns[1].is_supervised:
        writing.spans.append((start, writing.length))
    writing.pair_ends.append(writing.length)


def join_parts(parts: Sequence[str | None]) -> str:
    """The text of a message that is a list of parts, None for an image.

    Images that open a message stand a line each, as LLaVA writes them. Behind text an image stands where it is, and two
    texts in a row are two lines.
    """
    text, follows_text = "", False
    for number, part in enumerate(parts):
        if part is None:
            text += IMAGE_PLACEHOLDER if any(one is not None for one in parts[:number]) else f"{IMAGE_PLACEHOLDER}\n"
        else:
            text += f"\n{part}" if follows_text else part
        follows_text = part is not None
    return text


def chat_template(template: Template) -> str:
    """Jinja source for a Hugging Face processor that writes what ``template`` writes.

    Message contents may be strings with ``<image>`` or lists of ``{"type": "image"}`` and ``{"type": "text", ...}``,
    which are joined as :func:`join_parts` does.
    A first message of the role ``system`` takes the place of the template's own sentence.
    Turns are taken as settled: roles must alternate already.
    """
    if template.kind == "plain":
        return JINJA_PLAIN

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    # The system prompt last: it may hold the other's name.
    return JINJA_V1.replace("EOS", quoted(template.eos)).replace("SYSTEM", quoted(template.system))
