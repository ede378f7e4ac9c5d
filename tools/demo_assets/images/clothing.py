"""Fashion-MNIST: small grey product photographs of clothing, 28 pixels a side."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tools.demo_assets.images.item import GENERAL, Item, Pair, yes_no
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import fraction, split_of_key

NAMES = ("T-shirt", "Trousers", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
WITH_ARTICLE = (
    "a T-shirt",
    "a pair of trousers",
    "a pullover",
    "a dress",
    "a coat",
    "a sandal",
    "a shirt",
    "a sneaker",
    "a bag",
    "an ankle boot",
)
FOOTWEAR = (5, 7, 9)
UPPER_BODY = (0, 2, 4, 6)
# The item asked about in a yes/no question is the right one or one of the same group.
CONFUSED = {
    0: (6, 3),
    1: (3, 4),
    2: (4, 0),
    3: (1, 0),
    4: (3, 0),
    5: (7, 9),
    6: (0, 3),
    7: (9, 5),
    8: (0, 9),
    9: (5, 7),
}
PER_CLASS = 75


def read_clothing(shelf: Shelf) -> Iterator[Item]:
    """The first PER_CLASS pictures of every class of the test part (10,000 pictures)."""
    folder = "usr/share/datasets/fashion-mnist/"
    pictures = gzip.decompress(shelf.one("dataset-fashion-mnist", folder + "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(shelf.one("dataset-fashion-mnist", folder + "t10k-labels-idx1-ubyte.gz").read_bytes())
    images_NHW = np.frombuffer(pictures, np.uint8, offset=16).reshape(-1, 28, 28)
    counts = [0] * len(NAMES)
    for index, label in enumerate(np.frombuffer(labels, np.uint8, offset=8)):
        if counts[label] < PER_CLASS:
            counts[label] += 1
            yield _item(index, int(label), images_NHW[index])


def _item(index: int, label: int, pixels_HW: np.ndarray) -> Item:
    name = f"clothing-{index:05d}"
    pairs = [Pair("What kind of picture is this?", "A small photo of clothing", "picture kind")]
    pairs.append(Pair("Which piece of clothing is this?", NAMES[label], "clothing item"))
    pairs.append(Pair("Is this footwear?", yes_no(label in FOOTWEAR), "footwear"))
    truth = fraction("is this", name) < 0.5
    others = CONFUSED[label]
    asked = label if truth else others[int(fraction("other", name) * len(others))]
    pairs.append(Pair(f"Is this {WITH_ARTICLE[asked]}?", yes_no(truth), "is this clothing"))
    worn = "On the feet" if label in FOOTWEAR else "On the upper body" if label in UPPER_BODY else None
    worn = worn or {1: "On the legs", 8: "In the hand"}.get(label)
    if worn:
        pairs.append(Pair("Where is it worn or carried?", worn, "where worn"))
    item = pixels_HW[pixels_HW > 20]
    tone = "bright" if item.mean() > 175 else "dark" if item.mean() < 110 else None
    if tone:
        pairs.append(Pair("Is the item bright or dark?", tone.capitalize(), "clothing tone"))
    caption = f"A small grey photo of {WITH_ARTICLE[label]}{', ' + tone if tone else ''}"
    caption += f", worn {worn.lower()}" if worn and label != 8 else ", carried in the hand" if worn else ""
    caption += ", footwear." if label in FOOTWEAR else "."
    return Item(
        name,
        Image.fromarray(pixels_HW),
        GENERAL,
        "fashion-mnist",
        "clothing",
        "MIT",
        split_of_key(name),
        caption,
        tuple(pairs),
        lossless=True,
    )
