"""A view: one source as one stage (or several alike) reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llava_moe.data.encode import Encoder
from llava_moe.data.records import Records, Source


@dataclass(frozen=True)
class View:
    """One source through one encoder.

    A source that two stages read differently (as captions, then as conversations) is two views of the same images.

    Attributes:
        label: the source's name, with the stage where the name alone would be ambiguous.
        stages: titles of the stages that read it so.
        check_images: False where the image folder is plainly wrong: then no image is looked for.
        repeats_on_purpose: the source's ratios are made by repeating records, so copies are no fault.
    """

    label: str
    stages: tuple[str, ...]
    source: Source
    records: Records
    encoder: Encoder
    check_images: bool = True
    repeats_on_purpose: bool = False

    def without_images(self) -> View:
        """The same view with its images left alone."""
        return replace(self, check_images=False)
