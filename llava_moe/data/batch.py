"""One packed row as tensors: examples end to end, no padding and no attention mask.

Shape letters: T tokens of the row, S its segments, I its images, H and W pixels. The leading 1 is the batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from llava_moe.data.encode import IGNORED, Encoder, Example
from llava_moe.data.images.inputs import ImageSize, PositionIds
from llava_moe.to_device import to_device

TENSORS = ("input_ids", "labels", "position_ids", "pixel_values", "domains", "is_real")
NO_DOMAIN = -1
NULL_LENGTH = 8
"""Tokens of the one segment of a null row where the step needs no image."""


@dataclass(frozen=True)
class Batch:
    """One packed row = one micro-batch.

    Attributes:
        input_ids: int64 [1, T].
        labels: int64 [1, T], -100 where nothing is learned.
        position_ids: int64 [1, T], from 0 in every segment. That alone tells the segments apart: any 2-D attention mask
            would switch the packed mask off. A family whose positions have more axes has them in front.
        pixel_values: uint8 [N, 3, H, W] in the order of the image places; N may be 0. N is the number of images where
            each has one entry.
        image_sizes: of the row's images where their numbers of tokens differ, in the same order; else empty.
        host: the row as it was before it went to a device; None where it did not.
        image_slots: where the features of the row's images are kept, in the same order; then there are no pixels.
        domains: int64 [1, T], -1 in null segments and holes.
        segment_lengths: tokens of each segment, summing to T.
        is_real: bool [S], False for null segments and holes.
        keys: the record key of each segment; holes keep theirs, null segments have "".
        sample_positions: the place of each segment's sample in the optimizer step, -1 for null segments.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    pixel_values: torch.Tensor
    domains: torch.Tensor
    segment_lengths: tuple[int, ...]
    is_real: torch.Tensor
    keys: tuple[str, ...]
    sample_positions: tuple[int, ...]
    image_slots: tuple[int, ...] = ()
    image_sizes: tuple[ImageSize, ...] = ()
    host: Batch | None = None

    @property
    def on_host(self) -> Batch:
        """The row where it can be counted without waiting for a device."""
        return self if self.host is None else self.host

    @property
    def num_images(self) -> int:
        return (len(self.image_sizes) or int(self.pixel_values.shape[0])) + len(self.image_slots)

    @property
    def supervised_tokens(self) -> int:
        """Tokens that carry a loss. The first token of a segment, which nothing predicts, never does."""
        return int((self.on_host.labels != IGNORED).sum())

    @property
    def num_samples(self) -> int:
        """Real examples in the row: neither null segments nor holes."""
        return int(self.on_host.is_real.sum())

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(self.segment_lengths)

    def to(self, device: torch.device | str) -> Batch:
        """The same row with its tensors on ``device``; from page-locked memory the copy runs beside the computation."""
        moved = self._each(lambda tensor: to_device(tensor, device))
        return replace(moved, host=self.on_host)

    def pin_memory(self) -> Batch:
        """The same row in page-locked memory."""
        return self._each(torch.Tensor.pin_memory)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: getattr(self, name).numpy() for name in TENSORS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, **{name: torch.from_numpy(state[name]) for name in TENSORS})

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in TENSORS}
        return replace(self, **changed)


def collate_row(
    encoder: Encoder,
    examples: Sequence[Example],
    positions: Sequence[int],
    null_image: np.ndarray | None = None,
    null_slot: int | None = None,
) -> Batch:
    """Lay the examples of an encoder end to end; see :func:`collate`.

    Args:
        null_image: ``encoder.null_image``, or None where a row need not hold an image.
    """
    return collate(
        examples,
        positions,
        null_image,
        encoder.pad_token_id,
        encoder.image_token_id,
        encoder.num_null_tokens if null_image is not None else 0,
        null_slot,
        null_image_size=None if encoder.has_equal_images else encoder.transform.null_size,
        position_ids=encoder.position_ids,
    )


def collate(
    examples: Sequence[Example],
    positions: Sequence[int],
    null_image: np.ndarray | None,
    pad_token_id: int,
    image_token_id: int | None = None,
    num_image_tokens: int = 0,
    null_slot: int | None = None,
    null_image_size: ImageSize | None = None,
    position_ids: PositionIds | None = None,
) -> Batch:
    """Lay examples end to end.

    Args:
        examples: the row's examples; none makes a null row, which trains nothing and keeps ranks in step.
        positions: the place of each example in the optimizer step.
        null_image: uint8 [3, H, W], or [N, ...] with ``null_image_size``. Where given and the row holds no image, one
            segment of that image's ``num_image_tokens`` tokens is appended, so that every rank runs the vision tower in
            every micro-batch (under ZeRO-3 a rank without it waits forever).
        pad_token_id: what null rows are made of where ``null_image`` is not given.
        null_slot: where the features of ``null_image`` are kept, if those of all images are.
        null_image_size: its size, where images' numbers of tokens differ.
        position_ids: the positions of an example's tokens; None: 0, 1, 2, ...
    """
    if len(examples) != len(positions):
        raise ValueError(f"{len(examples)} examples and {len(positions)} positions")
    segments, places = list(examples), list(positions)
    if null_image is not None and not any(example.num_images for example in segments):
        if image_token_id is None or num_image_tokens < 1:
            raise ValueError("a null image needs image_token_id and num_image_tokens")
        pixels = null_image[None] if null_image_size is None else null_image
        null = _null_segment(image_token_id, num_image_tokens, pixels)
        null = null if null_image_size is None else replace(null, image_sizes=(null_image_size,))
        segments.append(null if null_slot is None else replace(null, pixels=null.pixels[:0], slots=(null_slot,)))
        places.append(-1)
    elif not segments:
        segments.append(_null_segment(pad_token_id, NULL_LENGTH, np.empty((0, 3, 1, 1), dtype=np.uint8)))
        places.append(-1)
    lengths = tuple(len(segment.input_ids) for segment in segments)
    real = [place >= 0 and not segment.is_hole for segment, place in zip(segments, places, strict=True)]
    domains = [segment.domain if is_real else NO_DOMAIN for segment, is_real in zip(segments, real, strict=True)]
    all_pixels = [segment.pixels for segment in segments if len(segment.pixels)] or [segments[0].pixels]
    token_positions = [_positions(segment, position_ids) for segment in segments]
    return Batch(
        input_ids=_row([segment.input_ids for segment in segments]),
        labels=_row([segment.labels for segment in segments]),
        position_ids=_row(token_positions),
        pixel_values=torch.from_numpy(np.concatenate(all_pixels)),
        domains=_row([np.full(length, domain) for length, domain in zip(lengths, domains, strict=True)]),
        segment_lengths=lengths,
        is_real=torch.tensor(real),
        keys=tuple(segment.key for segment in segments),
        sample_positions=tuple(places),
        image_slots=tuple(slot for segment in segments for slot in segment.slots),
        image_sizes=tuple(size for segment in segments for size in segment.image_sizes),
    )


def _row(pieces: Sequence[np.ndarray]) -> torch.Tensor:
    """[..., 1, T] of pieces [..., t]."""
    return torch.from_numpy(np.concatenate(pieces, axis=-1).astype(np.int64, copy=False)).unsqueeze(-2)


def _positions(segment: Example, position_ids: PositionIds | None) -> np.ndarray:
    if position_ids is None:
        return np.arange(len(segment.input_ids))
    return position_ids(segment.input_ids, segment.image_sizes)


def _null_segment(token_id: int, length: int, pixels_I3HW: np.ndarray) -> Example:
    ids = np.full(length, token_id, dtype=np.int64)
    return Example(ids, np.full(length, IGNORED, dtype=np.int64), pixels_I3HW, NO_DOMAIN, "")
