"""The items of the embedded demo, opened for one split only, so that pretraining cannot see the others."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

DOMAINS = ("general", "documents", "medical")
IMAGE_FOLDER = Path(__file__).resolve().parents[3] / "llava_moe" / "demo" / "images"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Item:
    """One image with its caption and its question-answer pairs."""

    id: str
    image: bytes
    caption: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    kinds: tuple[str, ...]
    closed: tuple[bool, ...]
    domain: str
    split: str


def read_items(split: str, folder: Path = IMAGE_FOLDER) -> list[Item]:
    """Items of one split, in file order: domain by domain, row by row.

    Pretraining calls this with `train` only; `val` is for measuring. Raises ValueError for any other split: the test
    split is closed to this recipe.
    """
    if split not in ("train", "val"):
        raise ValueError(f"the base may be made from 'train' and measured on 'val', not on {split!r}")
    items: list[Item] = []
    for domain in DOMAINS:
        table = pq.read_table(folder / f"{domain}.parquet", filters=[("split", "=", split)])
        items += [_item(row) for row in table.to_pylist()]
    assert items and all(item.split == split for item in items)
    return items


def _item(row: dict) -> Item:
    users = tuple(turn["text"] for turn in row["conversations"] if turn["role"] == "user")
    answers = tuple(turn["text"] for turn in row["conversations"] if turn["role"] == "assistant")
    assert len(users) == len(answers) == len(row["kinds"]) == len(row["closed"]), row["id"]
    return Item(
        id=row["id"],
        image=row["images"][0],
        caption=row["caption"],
        questions=users,
        answers=answers,
        kinds=tuple(row["kinds"]),
        closed=tuple(row["closed"]),
        domain=row["domain"],
        split=row["split"],
    )


def square_pixels(item: Item, size: int, view: int = 0) -> np.ndarray:
    """The image on a square canvas of the CLIP mean colour, resized bicubically: uint8 [3, size, size].

    View 0 is LLaVA-1.5's `expand2square` (haotian-liu/LLaVA, llava/mm_utils.py), what the tower will see in use. Other
    views are crops of 60-100 % of the canvas' side, half of them mirrored; item and view number decide which.
    """
    image = Image.open(io.BytesIO(item.image)).convert("RGB")
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in CLIP_MEAN))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    box: tuple[float, float, float, float] = (0, 0, side, side)
    if view:
        rng = random.Random(f"{item.id} {view}")
        width = side * rng.uniform(0.6, 1.0)
        left, top = rng.uniform(0, side - width), rng.uniform(0, side - width)
        box = (left, top, left + width, top + width)
        if rng.random() < 0.5:
            canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC, box=box)).transpose(2, 0, 1)


def all_pixels(items: list[Item], size: int, view: int = 0) -> np.ndarray:
    """`square_pixels` of every item: uint8 [I, 3, size, size]."""
    return np.stack([square_pixels(item, size, view) for item in items])
