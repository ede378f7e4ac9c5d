"""A conversation with a model: questions, their images, answers, and the prompt that they make together.

Legend: B rows, T tokens of the prompt, image places included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import Attached
from llava_moe.chat.answer import Answer, Decoding, OnText, generate_answer
from llava_moe.chat.line import refuse_no_file
from llava_moe.data.conversation import ASSISTANT, IMAGE_PLACEHOLDER, USER, BadRecord, Turn
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.images.deep_values import DarkImage
from llava_moe.data.images.inputs import ImageInputs, ImageSize, SeenImage, see
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.transform import read_image
from llava_moe.errors import UserError


@dataclass(frozen=True)
class Picture:
    """An opened image: its absolute path, and what the model is given of it, as it was trained on.

    ``dark`` is set where its deep values come out nearly black.
    """

    path: Path
    seen: SeenImage
    dark: DarkImage | None = None


def open_picture(
    path: Path,
    transform: ImageInputs,
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> Picture:
    """Open an image file.

    Raises:
        UserError: it is missing, a folder, no image, or too large.
    """
    # open_image takes a neighbour of another suffix for a missing file: right for old data sets, wrong for a person.
    refuse_no_file(path)
    try:
        opened = read_image(str(path.absolute()), reading=reading)
        return Picture(path.absolute(), see(transform, opened.image), opened.dark)
    except BadRecord as error:
        raise UserError(f"image {path} cannot be taken ({error.detail}): give another one") from error


@dataclass(frozen=True)
class Exchange:
    """A question with its images, and its answer."""

    question: str
    pictures: tuple[Picture, ...]
    answer: str

    @property
    def turns(self) -> tuple[Turn, Turn]:
        """The two turns."""
        return Turn(USER, self.question), Turn(ASSISTANT, self.answer)


class Session:
    """A conversation. Each question is asked with everything before it, the whole prompt encoded again.

    An adapter that decides from an example's prompt was trained to read the tokens before the *first* answer; it is
    told where they are, so that what the first question decided holds for the whole conversation. A model trained on
    the ``plain`` template captions each image by itself.

    Attributes:
        exchanges: what was said, oldest first.
        waiting: images that go with the next question.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        encoder: Encoder,
        attached: Attached,
        decoding: Decoding,
    ) -> None:
        self.exchanges: list[Exchange] = []
        self.waiting: list[Picture] = []
        self._model, self._encoder, self._attached, self._decoding = model, encoder, attached, decoding

    @property
    def captions(self) -> bool:
        """Whether the model was trained to caption an image, and to read no question."""
        return self._encoder.template.kind == "plain"

    @property
    def pictures(self) -> list[Picture]:
        """The images of the conversation, in order."""
        return [picture for exchange in self.exchanges for picture in exchange.pictures]

    def attach(self, path: Path) -> Picture:
        """Open an image for the next question; raises as :func:`open_picture` does."""
        self.waiting.append(open_picture(path, self._encoder.transform, self._encoder.reading))
        return self.waiting[-1]

    def ask(self, text: str, on_text: OnText) -> Answer:
        """Ask a question about the images that wait and all that was said before.

        ``<image>`` in the text marks the place of an image; images without one come first. In an answer it is text, as
        all other control tokens are everywhere. A blank answer is not kept, and its images wait again.

        Raises:
            UserError: nothing is asked, the text marks more images than wait, or the conversation is too long.
        """
        question = self._question(text)
        # A caption is a conversation of its own.
        before = [] if self.captions else self.exchanges
        asked = [*_turns(before), Turn(USER, question)]
        pictures = [picture for exchange in before for picture in exchange.pictures] + self.waiting
        counts = [count for exchange in before for count in (len(exchange.pictures), 0)] + [len(self.waiting)]
        seen = [picture.seen for picture in pictures]
        sizes = [one.size for one in seen]
        prompt_T = self._encoder.encode_prompt(asked, counts, sizes)
        self._attached.mark_prompts(self._labels(prompt_T, asked, counts, sizes))
        answer = generate_answer(self._model, self._encoder, prompt_T, seen, self._decoding, on_text)
        if answer.text.replace(IMAGE_PLACEHOLDER, "").strip():
            self.exchanges.append(Exchange(question, tuple(self.waiting), answer.text))
            self.waiting = []
        return answer

    def undo(self) -> Exchange:
        """Take the last question back, with its images and its answer.

        Raises:
            UserError: nothing was asked yet.
        """
        if not self.exchanges:
            raise UserError("there is no question to take back: the conversation is empty")
        return self.exchanges.pop()

    def reset(self) -> None:
        """Begin a new conversation, without images."""
        self.exchanges, self.waiting = [], []

    def records(self) -> list[dict[str, Any]]:
        """The conversation in our ``records`` format: one record, or one for each caption.

        A record reads every ``<image>`` as the place of an image: those in answers are left out.
        """
        parts = [[exchange] for exchange in self.exchanges] if self.captions else [self.exchanges]
        return [
            {
                "id": f"chat-{number}",
                "images": [str(picture.path) for exchange in part for picture in exchange.pictures],
                "conversations": [{"role": turn.role, "text": _as_recorded(turn)} for turn in _turns(part)],
                "source": "chat",
                "domain": "chat",
                "task": None,
            }
            for number, part in enumerate(parts)
            if part
        ]

    def _question(self, text: str) -> str:
        places, num_waiting = text.count(IMAGE_PLACEHOLDER), len(self.waiting)
        if places > num_waiting:
            has = f"{num_waiting} image{'' if num_waiting == 1 else 's'}"
            raise UserError(f"the question marks {places} {IMAGE_PLACEHOLDER} and has {has}: attach the others first")
        if self.captions and not self.waiting:
            raise UserError("this model captions images and reads no question: give it an image")
        if not self.captions and not text.replace(IMAGE_PLACEHOLDER, "").strip():
            raise UserError("there is no question: type one")
        return f"{IMAGE_PLACEHOLDER}\n" * (num_waiting - places) + text.strip()

    def _labels(
        self, prompt_T: np.ndarray, asked: Sequence[Turn], counts: Sequence[int], sizes: Sequence[ImageSize]
    ) -> torch.Tensor:
        """int64 [1, T] that sets the first question apart: -100 up to where its answer begins."""
        first_T = self._encoder.encode_prompt(asked[:1], counts[:1], sizes)
        # A chat template may write a question otherwise once it is answered: what both have in front is the question.
        shorter = min(len(first_T), len(prompt_T))
        differs = np.flatnonzero(first_T[:shorter] != prompt_T[:shorter])
        labels_BT = torch.from_numpy(prompt_T).clone().unsqueeze(0)
        labels_BT[:, : int(differs[0]) if len(differs) else shorter] = IGNORED
        return labels_BT


def _turns(exchanges: Sequence[Exchange]) -> list[Turn]:
    return [turn for exchange in exchanges for turn in exchange.turns]


def _as_recorded(turn: Turn) -> str:
    return turn.text.replace(IMAGE_PLACEHOLDER, "") if turn.role == ASSISTANT else turn.text
