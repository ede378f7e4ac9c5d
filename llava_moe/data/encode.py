"""Conversation to training example: token ids, labels and pixels.

Shape letters: t tokens of one example, i its images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.conversation import (
    IMAGE_PLACEHOLDER,
    BadRecord,
    Conversation,
    Turn,
    check_images,
    record_key,
)
from llava_moe.data.features.table import RowFeatures
from llava_moe.data.images.bounds import MAX_PIXELS
from llava_moe.data.images.deep_values import DarkImage
from llava_moe.data.images.file import OpenedImage
from llava_moe.data.images.inputs import ImageInputs, ImageSize, PositionIds, TokensBySize
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.transform import read_image
from llava_moe.data.template import Rendered, Template
from llava_moe.data.tokens import Tokens
from llava_moe.errors import UserError

IGNORED = -100
"""The label of a token that is read and not learned (torch's ``ignore_index``)."""


@dataclass(frozen=True)
class EncodedText:
    """One conversation as tokens, image placeholders expanded.

    Attributes:
        input_ids: int64 [t], the begin token first.
        labels: int64 [t], the token itself where it is supervised, else -100. The shift is the loss's.
        num_images: how many of the record's images, from the first, are still needed after a cut.
        was_cut: whole turns were left off the end to keep within ``max_length``.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    num_images: int
    was_cut: bool


@dataclass(frozen=True)
class Example:
    """One segment of a packed row: int64 [t] twice, uint8 pixels, its domain's number and its record's key.

    The pixels of its images lie end to end along the first axis: [i, 3, H, W] where each image has one entry there.
    ``image_sizes`` has a size for each image where their numbers of tokens differ, and is empty where they do not.

    A hole stands for a record that failed to decode: as long as planned, nothing supervised. ``dark`` are those of its
    images that come out nearly black. Images whose features are kept have slots in the place of pixels.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray
    domain: int
    key: str
    is_hole: bool = False
    dark: tuple[DarkImage, ...] = ()
    slots: tuple[int, ...] = ()
    image_sizes: tuple[ImageSize, ...] = ()

    @property
    def num_images(self) -> int:
        return (len(self.image_sizes) or len(self.pixels)) + len(self.slots)


@dataclass(frozen=True)
class Encoder:
    """Everything between a record and its example.

    Attributes:
        tokenizer: a Hugging Face fast tokenizer that holds ``<image>`` as one special token.
        image_token_id: the id of ``<image>``.
        transform: makes pixels of images, as the model's family sees them.
        num_image_tokens: places of an image in the sequence: a number where all images take as many (576 for CLIP-L/14
            at 336 pixels), else what tells it by an image's size. Ask :meth:`tokens_of_images`.
        max_length: longest example in tokens, images expanded.
        over_length: what becomes of longer ones: ``cut`` keeps the whole question-answer pairs that fit and drops the
            record if not even the first does; ``drop`` drops it.
        max_pixels: most pixels of an image that is opened at all.
        reading: what becomes of orientation, transparency and deep values; a source's own ``value_range`` goes before.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Template | ChatTemplate
    transform: ImageInputs
    image_token_id: int
    num_image_tokens: int | TokensBySize
    max_length: int = 2048
    over_length: Literal["cut", "drop"] = "cut"
    max_pixels: int = MAX_PIXELS
    # Trap: kept answers are named by every field (eval/run.py), so a new one would leave all of them behind.
    reading: ImageReading = ImageReading()  # noqa: RUF009

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise ValueError(f"a fast tokenizer is needed for character offsets, got {type(self.tokenizer).__name__}")
        if self.over_length not in ("cut", "drop"):
            raise ValueError(f"over_length must be 'cut' or 'drop', got {self.over_length!r}")
        found = self.tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)
        if found != self.image_token_id:
            raise ValueError(f"{IMAGE_PLACEHOLDER} is token {found} of the tokenizer, not {self.image_token_id}")
        end = self.tokenizer.convert_tokens_to_ids(self.template.eos)
        if self.template.kind == "v1" and end != self.tokenizer.eos_token_id:
            raise ValueError(
                f"the template ends answers with {self.template.eos!r} (token {end}), the tokenizer's end token is "
                f"{self.tokenizer.eos_token!r} ({self.tokenizer.eos_token_id})"
            )

    @property
    def has_equal_images(self) -> bool:
        """Whether every image takes as many tokens, so that none need be opened to count them."""
        return isinstance(self.num_image_tokens, int)

    def tokens_of_images(self, num_images: int, image_sizes: Sequence[ImageSize] = ()) -> np.ndarray:
        """int64 [num_images]: places of each image in the sequence.

        Args:
            image_sizes: of all of them; may be left out where every image takes as many.

        Raises:
            ValueError: the sizes are needed and not there.
        """
        if isinstance(self.num_image_tokens, int):
            return np.full(num_images, self.num_image_tokens, dtype=np.int64)
        if len(image_sizes) < num_images:
            raise ValueError(f"{num_images} images and {len(image_sizes)} sizes: their tokens depend on their sizes")
        return np.asarray([self.num_image_tokens(size) for size in image_sizes[:num_images]], dtype=np.int64)

    @property
    def position_ids(self) -> PositionIds | None:
        """The positions of an example's tokens; None: 0, 1, 2, ..."""
        return self.transform.position_ids

    @property
    def num_null_tokens(self) -> int:
        """Places of the black image that a row without images gets, where one is needed."""
        return int(self.tokens_of_images(1, [self.transform.null_size])[0])

    @cached_property
    def null_image(self) -> np.ndarray:
        """uint8 pixels of that image: [3, H, W] where every image is one square, else [N, ...]."""
        width, height = self.transform.null_size
        pixels = self.transform.pixels_of(Image.new("RGB", (width, height)))
        return pixels[0] if self.has_equal_images else pixels

    def image_sizes(
        self, conversation: Conversation, image_root: str | None, value_range: tuple[float, float] | None = None
    ) -> tuple[ImageSize, ...]:
        """The sizes that :meth:`encode_text` needs; empty, and nothing opened, where every image takes as many tokens.

        Raises:
            BadRecord: as ``read_image`` does.
        """
        if self.has_equal_images:
            return ()
        # Opened whole: what a header says is not always what comes out (icons, pages that are turned upright).
        return tuple(opened.image.size for opened in self._open(conversation, None, image_root, value_range))

    def encode_text(self, conversation: Conversation, image_sizes: Sequence[ImageSize] = ()) -> EncodedText:
        """Tokens and labels of one conversation, without touching its images.

        The whole text is tokenised once; a token is supervised if and only if it lies inside a supervised span. No
        control token comes from what people wrote.

        Args:
            image_sizes: see :meth:`image_sizes`.

        Raises:
            BadRecord: the turns do not settle, ``image_count``, ``nothing_supervised``, or ``too_long``.
            UserError: a token straddles the edge of a span, so no exact labels exist with this tokenizer.
        """
        check_images(conversation)
        rendered = self.template.render(conversation)
        return self.finish(rendered, self.encode_texts([rendered])[0], image_sizes)

    def encode_texts(self, rendered: Sequence[Rendered]) -> list[Encoding]:
        """Tokenise many rendered texts at once (in parallel, outside Python); ``finish`` makes examples of them."""
        return self.tokens.encode(rendered)

    def finish(self, rendered: Rendered, encoding: Encoding, image_sizes: Sequence[ImageSize] = ()) -> EncodedText:
        """Labels, expansion and over-length policy for one tokenised text; raises as ``encode_text`` does."""
        ids = np.asarray(encoding.ids, dtype=np.int64)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        supervised = _inside(rendered, offsets, self.tokenizer.name_or_path or type(self.tokenizer).__name__)
        bos = self.tokenizer.bos_token_id
        opening = 0 if bos is None else 1
        sizes = self._places(ids, image_sizes)
        ends = opening + np.cumsum(sizes)
        kept = len(ids)
        if kept and ends[-1] > self.max_length:
            kept = self._cut(rendered, offsets, ends)
        was_cut = kept < len(ids)
        ids, sizes, supervised = ids[:kept], sizes[:kept], supervised[:kept]
        labels = np.where(supervised, ids, IGNORED)
        if opening:
            ids, sizes, labels = np.append(bos, ids), np.append(1, sizes), np.append(IGNORED, labels)
        num_images = int((ids == self.image_token_id).sum())
        return EncodedText(np.repeat(ids, sizes), np.repeat(labels, sizes), num_images, was_cut)

    def encode(
        self,
        conversation: Conversation,
        image_root: str | None,
        domain_id: int,
        value_range: tuple[float, float] | None = None,
    ) -> Example:
        """Tokens, labels and pixels of one conversation.

        Args:
            value_range: that of the conversation's source.

        Raises:
            BadRecord: as ``encode_text`` and ``open_image`` do.
        """
        if self.has_equal_images:
            return self.with_pixels(self.encode_text(conversation), conversation, image_root, domain_id, value_range)
        check_images(conversation)
        opened = [*self._open(conversation, None, image_root, value_range)]
        text = self.encode_text(conversation, [one.image.size for one in opened])
        return self._example(text, conversation, domain_id, opened[: text.num_images])

    def with_pixels(
        self,
        text: EncodedText,
        conversation: Conversation,
        image_root: str | None,
        domain_id: int,
        value_range: tuple[float, float] | None = None,
    ) -> Example:
        """The example of tokens that are there already; raises as ``open_image`` does."""
        opened = self._open(conversation, text.num_images, image_root, value_range)
        return self._example(text, conversation, domain_id, opened)

    def with_features(
        self, text: EncodedText, conversation: Conversation, domain_id: int, features: RowFeatures
    ) -> Example:
        """The example of images whose features are kept: none is opened."""
        dark = tuple(
            DarkImage(_name_of_image(conversation, place), *values)
            for place, values in features.dark
            if place < text.num_images
        )
        pixels, slots = self.transform.no_pixels, features.slots[: text.num_images]
        key = record_key(conversation)
        return Example(text.input_ids, text.labels, pixels, domain_id, key, dark=dark, slots=slots)

    def placeholder_example(self, length: int, domain_id: int, key: str = "") -> Example:
        """A segment of ``length`` padding tokens that teaches nothing, in the place of a record that failed."""
        return Example(
            input_ids=np.full(length, self.pad_token_id, dtype=np.int64),
            labels=np.full(length, IGNORED, dtype=np.int64),
            pixels=self.transform.no_pixels,
            domain=domain_id,
            key=key,
            is_hole=True,
        )

    def encode_prompt(
        self,
        turns: Sequence[Turn],
        num_images: Sequence[int] | None = None,
        image_sizes: Sequence[ImageSize] = (),
    ) -> np.ndarray:
        """Token ids int64 [t] to generate from, for turns that end with a question; images expanded, nothing cut.

        Args:
            num_images: see :meth:`~llava_moe.data.template.Template.render_prompt`.
            image_sizes: of all images of the turns; see :meth:`tokens_of_images`.
        """
        return self.encode_written(self.template.render_prompt(turns, num_images), image_sizes)

    def encode_written(self, prompt: Rendered, image_sizes: Sequence[ImageSize] = ()) -> np.ndarray:
        """Token ids int64 [t] of a prompt that is written already, without its first token; images expanded."""
        ids = np.asarray(self.tokens.encode([prompt])[0].ids, dtype=np.int64)
        if self.tokenizer.bos_token_id is not None:
            ids = np.append(self.tokenizer.bos_token_id, ids)
        return np.repeat(ids, self._places(ids, image_sizes))

    @cached_property
    def tokens(self) -> Tokens:
        """What makes tokens of rendered text."""
        # The backend itself: the wrapper turns every offset into Python lists, which costs more than the tokens.
        return Tokens(self.tokenizer.backend_tokenizer)

    @property
    def pad_token_id(self) -> int:
        """The tokenizer's padding token."""
        if self.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token; add one when the model is assembled")
        return int(self.tokenizer.pad_token_id)

    def _places(self, ids_t: np.ndarray, image_sizes: Sequence[ImageSize]) -> np.ndarray:
        """int64 [t]: how often each token stands in the sequence, which is once but for images."""
        is_image_t = ids_t == self.image_token_id
        places_t = np.ones(len(ids_t), dtype=np.int64)
        places_t[is_image_t] = self.tokens_of_images(int(is_image_t.sum()), image_sizes)
        return places_t

    def _open(
        self,
        conversation: Conversation,
        num_images: int | None,
        image_root: str | None,
        value_range: tuple[float, float] | None,
    ) -> Iterator[OpenedImage]:
        """The first images of a conversation, or all; one after the other, for opened ones are large."""
        reading = replace(self.reading, value_range=value_range)
        for ref in conversation.images[:num_images]:
            yield read_image(ref, image_root, self.max_pixels, reading=reading)

    def _example(
        self, text: EncodedText, conversation: Conversation, domain_id: int, opened: Iterable[OpenedImage]
    ) -> Example:
        pixels: list[np.ndarray] = []
        dark: list[DarkImage] = []
        sizes: list[ImageSize] = []
        for place, one in enumerate(opened):
            pixels.append(self.transform.pixels_of(one.image))
            sizes.append(one.image.size)
            if one.dark is not None:
                dark.append(replace(one.dark, name=_name_of_image(conversation, place)))
        return Example(
            text.input_ids,
            text.labels,
            np.concatenate(pixels or [self.transform.no_pixels]),
            domain_id,
            record_key(conversation),
            dark=tuple(dark),
            image_sizes=() if self.has_equal_images else tuple(sizes),
        )

    def _cut(self, rendered: Rendered, offsets: np.ndarray, ends: np.ndarray) -> int:
        """How many tokens to keep: those of the question-answer pairs that fit whole, one of them supervised."""
        if self.over_length == "cut" and rendered.spans:
            first = rendered.spans[0][1]
            for pair_end in reversed([end for end in rendered.ends[:-1] if end >= first]):
                # The end token behind an answer is special, so what follows does not change the tokens before it.
                kept = int(np.searchsorted(offsets[:, 0], pair_end, side="left"))
                if ends[kept - 1] <= self.max_length:
                    return kept
        raise BadRecord("too_long", f"{ends[-1]} tokens, at most {self.max_length}")


def _name_of_image(conversation: Conversation, place: int) -> str:
    ref = conversation.images[place]
    return ref if isinstance(ref, str) else f"image {place + 1} of record {conversation.id}"


def _inside(rendered: Rendered, offsets_t2: np.ndarray, tokenizer_name: str) -> np.ndarray:
    """Bool [t]: which tokens lie inside a supervised span of characters.

    A token of no width (SentencePiece's dummy prefix) belongs to the span that it opens, not to the one it follows.
    """
    supervised = np.zeros(len(offsets_t2), dtype=bool)
    starts, ends = offsets_t2[:, 0], offsets_t2[:, 1]
    for span_start, span_end in rendered.spans:
        inside = (starts >= span_start) & (starts < span_end) & (ends <= span_end)
        touching = (starts < span_end) & (ends > span_start)
        straddling = touching & ~inside
        if straddling.any():
            at = int(np.flatnonzero(straddling)[0])
            piece = rendered.text[starts[at] : ends[at]]
            raise UserError(
                f"tokenizer {tokenizer_name} makes one token ({piece!r}) of text on both sides of where an answer "
                f"begins or ends ({rendered.text[max(0, span_start - 20) : span_start]!r} before it), so that no exact "
                "labels exist: give a tokenizer that splits there, as Llama's do"
            )
        supervised |= inside
    return supervised
