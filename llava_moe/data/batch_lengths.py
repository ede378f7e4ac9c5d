"""Sizes of many examples at once: what encoding them would give, without making them.

Letters: n texts, t tokens of all of them end to end, i their images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from tokenizers import Encoding

from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.template import Rendered


@dataclass(frozen=True)
class Size:
    """One example: tokens with images expanded, those that carry a loss, images, and whether it was cut to fit."""

    length: int
    supervised: int
    num_images: int
    was_cut: bool


def measure(
    encoder: Encoder, rendered: Sequence[Rendered], image_sizes: Sequence[Sequence[ImageSize]] | None = None
) -> list[Size | BadRecord]:
    """The size of each text's example, or why there is none; exactly what ``Encoder.finish`` finds, some times faster.

    Args:
        image_sizes: of each text's images, where their numbers of tokens depend on them.

    Raises:
        UserError: a token straddles the edge of a supervised span (see ``Encoder.encode_text``).
    """
    if not rendered:
        return []
    encodings = encoder.encode_texts(rendered)
    counts = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
    total = int(counts.sum())
    ids_t = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64, total)
    text_t = np.repeat(np.arange(len(rendered)), counts)
    supervised_t, straddling_t = _inside(rendered, encodings, text_t, total)
    if straddling_t.any():
        # The plain way says which characters they are.
        at = int(text_t[int(np.argmax(straddling_t))])
        encoder.finish(rendered[at], encodings[at], _sizes_of(image_sizes, at))
    is_image_t = ids_t == encoder.image_token_id
    text_i, num_texts = text_t[is_image_t], len(rendered)
    num_images = np.bincount(text_i, minlength=num_texts)
    supervised = np.bincount(text_t[supervised_t], minlength=num_texts)
    opening = 0 if encoder.tokenizer.bos_token_id is None else 1
    flat_sizes = [size for sizes in image_sizes or () for size in sizes]
    more_i = encoder.tokens_of_images(len(text_i), flat_sizes) - 1
    lengths = opening + counts + _sums(text_i, more_i, num_texts)
    # The tokens of an image all carry its label.
    is_learned_i = supervised_t[is_image_t]
    supervised = supervised + _sums(text_i[is_learned_i], more_i[is_learned_i], num_texts)
    sizes: list[Size | BadRecord] = [
        Size(*numbers, was_cut=False)
        for numbers in zip(lengths.tolist(), supervised.tolist(), num_images.tolist(), strict=True)
    ]
    for place in np.flatnonzero(lengths > encoder.max_length).tolist():
        sizes[place] = _cut_size(encoder, rendered[place], encodings[place], _sizes_of(image_sizes, place))
    return sizes


def _sizes_of(image_sizes: Sequence[Sequence[ImageSize]] | None, place: int) -> Sequence[ImageSize]:
    return () if image_sizes is None else image_sizes[place]


def _sums(text_i: np.ndarray, values_i: np.ndarray, num_texts: int) -> np.ndarray:
    """int64 [n]: the sum of each text's values. float64 holds them exactly up to 2^53."""
    return np.bincount(text_i, values_i, num_texts).astype(np.int64)


def _cut_size(
    encoder: Encoder, rendered: Rendered, encoding: Encoding, image_sizes: Sequence[ImageSize]
) -> Size | BadRecord:
    try:
        text = encoder.finish(rendered, encoding, image_sizes)
    except BadRecord as fault:
        return fault
    return Size(len(text.input_ids), int((text.labels != IGNORED).sum()), text.num_images, text.was_cut)


def _inside(
    rendered: Sequence[Rendered], encodings: Sequence[Encoding], text_t: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bool [t] twice: tokens inside a span to supervise, and tokens that straddle an edge of one.

    All texts lie on one line of characters, end to end with a gap, so that one search finds each token's span.
    """
    flat = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    offsets_t2 = np.fromiter(flat, np.int64, 2 * total).reshape(-1, 2)
    sizes = np.fromiter((len(one.text) + 2 for one in rendered), np.int64, len(rendered))
    bases = np.cumsum(sizes) - sizes
    starts_t, ends_t = offsets_t2[:, 0] + bases[text_t], offsets_t2[:, 1] + bases[text_t]
    spans = np.asarray(
        [(base + a, base + b) for base, one in zip(bases.tolist(), rendered, strict=True) for a, b in one.spans],
        dtype=np.int64,
    ).reshape(-1, 2)
    if not len(spans):
        return np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    last_t = np.searchsorted(spans[:, 0], starts_t, side="right") - 1
    is_behind_one = last_t >= 0
    begins_inside = is_behind_one & (starts_t < spans[last_t, 1])
    inside = begins_inside & (ends_t <= spans[last_t, 1])
    following = np.minimum(last_t + 1, len(spans) - 1)
    reaches_next = (last_t + 1 < len(spans)) & (ends_t > spans[following, 0])
    return inside, (begins_inside & ~inside) | reaches_next
