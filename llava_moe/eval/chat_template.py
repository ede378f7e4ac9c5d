"""Prompts written by a checkpoint's own chat template, where it has one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import TemplateError
from transformers.utils import cached_file

from llava_moe.data.conversation import IMAGE_PLACEHOLDER
from llava_moe.data.encode import Encoder
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question

_PROBE = Question("probe", ("image",), "Is this a probe?", (), "", "", True)


@dataclass(frozen=True)
class ChatPrompts:
    """Writes a question as one user turn of a chat template, ready for the assistant's answer.

    Attributes:
        encoder: its tokenizer and the places of an image; its own template is not used.
        source: the template, Jinja.
        place: where the template is from, for error messages.
    """

    encoder: Encoder
    source: str
    place: str

    def __post_init__(self) -> None:
        self(_PROBE)

    def __call__(self, question: Question) -> np.ndarray:
        """Token ids int64 [t] of a question's prompt, images expanded.

        Raises:
            UserError: the template fails, or leaves out an image, the question or its system prompt.
        """
        return self.encoder.encode_written(self.write(question))

    def write(self, question: Question) -> str:
        """The prompt's text without the tokenizer's first token; raises as a call does."""
        for messages in _spellings(question):
            text = self._render(messages)
            if text is not None and self._is_whole(text, question):
                return text.removeprefix(self.encoder.tokenizer.bos_token or "")
        what = "a question with its images" if question.system is None else "a system prompt, which this protocol has,"
        raise UserError(
            f"the chat template of {self.place} does not take {what}: add model.template=v1 for LLaVA-1.5's own format"
        )

    def _render(self, messages: list[dict[str, Any]]) -> str | None:
        try:
            text = self.encoder.tokenizer.apply_chat_template(
                messages, chat_template=self.source, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, KeyError, ValueError):
            return None  # not this spelling
        return str(text)

    @staticmethod
    def _is_whole(text: str, question: Question) -> bool:
        # Templates strip outer blanks; a list of parts that was written as it stands shows its quotes.
        has_text = question.prompt.strip() in text and "'type'" not in text
        has_images = text.count(IMAGE_PLACEHOLDER) == len(question.images)
        return has_text and has_images and (question.system is None or question.system.strip() in text)


def _spellings(question: Question) -> list[list[dict[str, Any]]]:
    """The messages with parts, as processors' templates take them, and as text alone, as tokenizers' do."""
    text = {"type": "text", "text": question.prompt}
    parts = [*({"type": "image"} for _ in question.images), text]
    plain = f"{IMAGE_PLACEHOLDER}\n" * len(question.images) + question.prompt
    system: list[list[dict[str, Any]]] = [[], []]
    if question.system is not None:
        told = question.system
        system = [
            [{"role": "system", "content": [{"type": "text", "text": told}]}],
            [{"role": "system", "content": told}],
        ]
    return [[*system[0], {"role": "user", "content": parts}], [*system[1], {"role": "user", "content": plain}]]


def read_chat_template(reference: str) -> str | None:
    """The chat template in a checkpoint's own files, the processor's before the tokenizer's; None: there is none.

    Args:
        reference: a folder or hub id.

    Raises:
        UserError: a file that should be JSON is not.
    """
    if path := _file_of(reference, "chat_template.jinja"):
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = _read_json(reference, name).get("chat_template")
        if isinstance(found, list):  # several, by name
            found = {one.get("name"): one.get("template") for one in found}.get("default")
        if isinstance(found, str) and found.strip():
            return found
    return None


def read_image_mode(reference: str) -> Literal["pad", "crop"] | None:
    """How a checkpoint's image processor says that images become square; None: it does not say."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        settings = _read_json(reference, name)
        settings = settings.get("image_processor", settings)
        if isinstance(settings, dict) and isinstance(settings.get("do_pad"), bool):
            return "pad" if settings["do_pad"] else "crop"
    return None


def _read_json(reference: str, name: str) -> dict[str, Any]:
    path = _file_of(reference, name)
    if path is None:
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the checkpoint again") from error
    return settings if isinstance(settings, dict) else {}


def _file_of(reference: str, name: str) -> Path | None:
    if (folder := Path(reference).expanduser()).is_dir():
        return path if (path := folder / name).is_file() else None
    try:
        found = cached_file(
            reference,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:  # no such repository: loading its weights says so
        return None
    return None if found is None else Path(found)
