"""Pictures with several emoji: how many there are, and on which side a kind of thing is.

The emoji of a picture all belong to the picture's split, so no emoji is seen in two splits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from PIL import Image

from tools.demo_assets.images.emoji import ANIMALS, FACES, FOOD, SIGNS, VEHICLES, read_emoji_rows
from tools.demo_assets.images.item import GENERAL, Item, Pair
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import generator

SIZE = 128
COUNTS = {"train": 260, "val": 24, "test": 60}
CELLS = 3
# Group and subgroups of emojibase -> what a question calls it.
SIDES = {
    "food or drink": (4, FOOD),
    "animal": (3, tuple(ANIMALS)),
    "face": (0, FACES),
    "vehicle": (5, tuple(VEHICLES)),
    "sign": (8, SIGNS),
}


def read_emoji_groups(shelf: Shelf) -> Iterator[Item]:
    """COUNTS pictures of one to six emoji, and as many of two emoji side by side."""
    everything: dict[str, list[Item]] = defaultdict(list)
    things: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for row, item in read_emoji_rows(shelf):
        everything[item.split].append(item)
        for name, (group, subgroups) in SIDES.items():
            if row["group"] == group and row.get("subgroup") in subgroups:
                things[item.split][name].append(item)
    for split, count in COUNTS.items():
        for index in range(count):
            yield _counted(everything[split], split, index)
            yield _side_by_side(things[split], split, index)


def _paste(pictures: Sequence[Image.Image], corners: Sequence[tuple[int, int]], sizes: Sequence[int]) -> Image.Image:
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    for picture, corner, size in zip(pictures, corners, sizes, strict=True):
        canvas.paste(picture.resize((size, size), Image.Resampling.LANCZOS), corner)
    return canvas


def _counted(emoji: Sequence[Item], split: str, index: int) -> Item:
    rng = generator("emoji count", split, index)
    count, cell = 1 + index % 6, SIZE // CELLS
    chosen = [emoji[place] for place in rng.choice(len(emoji), count, replace=False)]
    places = rng.choice(CELLS * CELLS, count, replace=False)
    corners = [(int(place) % CELLS * cell + 1, int(place) // CELLS * cell + 1) for place in places]
    image = _paste([item.image for item in chosen], corners, [cell - 2] * count)
    pairs = (Pair("How many emoji are in the picture?", str(count), "number of emoji"),)
    return Item(
        f"emoji-count-{split}-{index:04d}",
        image,
        GENERAL,
        "fluent-emoji-groups",
        "emoji group",
        "MIT",
        split,
        f"A picture with {count} emoji.",
        pairs,
    )


def _side_by_side(things: dict[str, list[Item]], split: str, index: int) -> Item:
    rng = generator("emoji side", split, index)
    names = list(SIDES)
    left, right = (names[place] for place in rng.permutation(len(names))[:2])
    chosen = [things[name][int(rng.integers(len(things[name])))] for name in (left, right)]
    sizes = [int(size) for size in rng.choice((44, 60), 2, replace=False)] if rng.random() < 0.6 else [52, 52]
    corners = [
        (2 + 64 * side + int(rng.integers(61 - size)), int(rng.integers(4, SIZE - size - 4)))
        for side, size in enumerate(sizes)
    ]
    image = _paste([item.image for item in chosen], corners, sizes)
    pairs = [
        Pair(f"On which side is the {left}?", "Left", "side of emoji"),
        Pair(f"On which side is the {right}?", "Right", "side of emoji"),
    ]
    facts = f"the {left} on the left and the {right} on the right"
    if sizes[0] != sizes[1]:
        larger = "Left" if sizes[0] > sizes[1] else "Right"
        pairs.append(Pair("On which side is the larger emoji?", larger, "larger emoji"))
        facts += f"; the larger one is on the {larger.lower()}"
    pairs.append(Pair("How many emoji are in the picture?", "2", "number of emoji"))
    return Item(
        f"emoji-side-{split}-{index:04d}",
        image,
        GENERAL,
        "fluent-emoji-groups",
        "emoji group",
        "MIT",
        split,
        f"A picture with 2 emoji, {facts}.",
        tuple(pairs),
    )
