"""One image of the demo with its questions."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

GENERAL = "general"
DOCUMENTS = "documents"
MEDICAL = "medical"
DOMAINS = (GENERAL, DOCUMENTS, MEDICAL)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Pair:
    """A question about the image and its one right answer; `closed` means the answer comes from a small set."""

    question: str
    answer: str
    kind: str
    closed: bool = True


@dataclass(frozen=True)
class Item:
    """An image before it is encoded. `lossless` is for drawn pictures, where JPEG would smear thin lines."""

    id: str
    image: Image.Image
    domain: str
    source: str
    task: str
    licence: str
    split: str
    caption: str
    pairs: tuple[Pair, ...]
    lossless: bool = False


def yes_no(truth: bool) -> str:
    """The answer to a yes/no question."""
    return "Yes" if truth else "No"
