"""``train.rehearse``: the rows that ranks try before step 1, each kind of which might keep one waiting for another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llava_moe.assemble import Assembled
from llava_moe.data.batch import Batch, collate_row
from llava_moe.data.encode import IGNORED, Example
from llava_moe.data.stream import StepStream
from llava_moe.train.engine import Engine
from llava_moe.train.objective import Objective
from llava_moe.train.pulse import Pulse
from llava_moe.train.rehearsal import Scene, rehearse

SECONDS = 120
"""How long a rank may stand in one module, which may compile kernels; ``train.stall_seconds`` where that is less."""
TEXT_LENGTH = 32
"""Tokens of text in an example, half of them supervised."""


def try_rows(
    engine: Engine, objective: Objective, stream: StepStream, assembled: Assembled, pulse: Pulse, stall_seconds: float
) -> None:
    """Try the rows; see :func:`~llava_moe.train.rehearsal.rehearse`."""
    with pulse.hurried(min(1.0, SECONDS / stall_seconds) if stall_seconds else 1.0):
        rehearse(engine, objective, scenes_of(stream, assembled), pulse)


def scenes_of(stream: StepStream, assembled: Assembled) -> list[Scene]:
    """The scenes of this rank: text here and images elsewhere, one expert that takes all, the longest row."""
    rows, rank = _Rows(stream), stream.rank
    scenes = []
    if rows.has_images:
        apart = {"text on process 0, an image on the others": rank > 0, "the other way round": rank == 0}
        scenes += [Scene(name, rows.row(1, has_image)) for name, has_image in apart.items()]
    if assembled.attached.num_token_routers:
        within = assembled.attached.one_expert_takes_all(rank)
        scenes.append(
            Scene("one expert takes all tokens, on each process another", rows.row(1, rows.has_images), within)
        )
    return [*scenes, Scene("the longest row", rows.longest())]


@dataclass(frozen=True)
class _Rows:
    """Makes packed rows of examples without meaning, as the stream would seat real ones."""

    stream: StepStream

    @property
    def has_images(self) -> bool:
        """Whether the data show any: the same on all ranks, which try as many scenes."""
        return any(bool(index.num_images.any()) for index in self.stream.indexes)

    @property
    def _slot(self) -> int | None:
        """Of features that this rank has; where ranks must agree all have those of the null image."""
        features = self.stream.features
        if features is None or features.null_slot is not None:
            return None if features is None else features.null_slot
        return int(features.slots[0]) if len(features.slots) else None

    def row(self, num_examples: int, has_image: bool, rest: int = 0) -> Batch:
        """Examples of one length, each with an image or none, and one of ``rest`` tokens of text."""
        examples = [self._example(TEXT_LENGTH, has_image) for _ in range(num_examples)]
        examples += [self._example(rest, False)] if rest else []
        null_slot = None if self.stream.features is None else self.stream.features.null_slot
        return collate_row(self.stream.encoder, examples, range(len(examples)), self.stream.null_image, null_slot)

    def longest(self) -> Batch:
        """A row as long as one may be: no step has more tokens than all its samples at their longest."""
        stream = self.stream
        most = stream.global_batch_size * max(int(index.lengths.max(initial=0)) for index in stream.indexes)
        length = min(stream.tokens_per_micro_batch, most)
        one = len(self._example(TEXT_LENGTH, self.has_images).input_ids)
        has_image = self.has_images and one <= length
        one = one if has_image else TEXT_LENGTH
        num_examples, rest = divmod(length, one)
        return self.row(num_examples, has_image, rest)

    def _example(self, num_text: int, has_image: bool) -> Example:
        encoder = self.stream.encoder
        has_image = has_image and (self.stream.features is None or self._slot is not None)
        num_places = encoder.num_null_tokens if has_image else 0
        input_ids = np.full(num_places + num_text, encoder.pad_token_id, dtype=np.int64)
        input_ids[:num_places] = encoder.image_token_id
        labels = np.full(len(input_ids), IGNORED, dtype=np.int64)
        labels[num_places + (num_text + 1) // 2 :] = encoder.pad_token_id
        example = Example(input_ids, labels, encoder.transform.no_pixels, 0, "rehearsal")
        if not has_image:
            return example
        if self._slot is not None:
            return Example(input_ids, labels, example.pixels, 0, "rehearsal", slots=(self._slot,))
        if encoder.has_equal_images:
            return Example(input_ids, labels, encoder.null_image[None], 0, "rehearsal")
        sizes = (encoder.transform.null_size,)
        return Example(input_ids, labels, encoder.null_image, 0, "rehearsal", image_sizes=sizes)
