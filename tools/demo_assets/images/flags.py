"""Flags of countries and territories; every answer but the name is measured from the pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tools.demo_assets.images.colors import color_shares, main_color
from tools.demo_assets.images.item import GENERAL, Item, Pair, yes_no
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import fraction, split_of_key

SIZE = (128, 96)
ASKED = ("red", "green", "blue", "yellow", "black", "white")
NUM_ASKED = 4
EDGES = {
    "at the top edge": (slice(0, 8), slice(24, 104)),
    "at the bottom edge": (slice(88, 96), slice(24, 104)),
    "at the left edge": (slice(16, 80), slice(0, 10)),
    "at the right edge": (slice(16, 80), slice(118, 128)),
    "in the centre": (slice(40, 56), slice(54, 74)),
}


def read_flags(shelf: Shelf) -> Iterator[Item]:
    """One item per two-letter code that has a name; pictures shared by several territories come once."""
    names = _names(shelf)
    seen: set[bytes] = set()
    for path in shelf.find("iso-flags-png-320x240", "**/*.png"):
        if path.stem not in names:
            continue
        picture = _inside(Image.open(path).convert("RGBA")).resize(SIZE, Image.Resampling.LANCZOS)
        if picture.tobytes() not in seen:
            seen.add(picture.tobytes())
            yield _item(path.stem, names[path.stem], picture)


def _inside(picture: Image.Image) -> Image.Image:
    """The flag without its transparent margin, its drawn border and its rounded corners."""
    opaque = np.asarray(picture)[..., 3] > 200
    rows, columns = np.flatnonzero(opaque.mean(1) > 0.5), np.flatnonzero(opaque.mean(0) > 0.5)
    margin = round(0.05 * len(rows))
    box = (columns[0] + margin, rows[0] + margin, columns[-1] + 1 - margin, rows[-1] + 1 - margin)
    canvas = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    canvas.alpha_composite(picture)
    return canvas.convert("RGB").crop(tuple(int(edge) for edge in box))


def _names(shelf: Shelf) -> dict[str, str]:
    """Two-letter code -> name, from the labels of the flag emoji ("flag: France")."""
    names = {}
    for row in json.loads(shelf.one("emojibase-data", "package/en/data.json").read_text()):
        if row["label"].startswith("flag: ") and len(row["hexcode"].split("-")) == 2:
            code = "".join(chr(int(part, 16) - 0x1F1E6 + ord("a")) for part in row["hexcode"].split("-"))
            names[code] = row["label"].removeprefix("flag: ")
    return names


def _item(code: str, name: str, picture: Image.Image) -> Item:
    pixels = np.asarray(picture)
    shares = color_shares(pixels)
    pairs, facts = [Pair("What kind of picture is this?", "A flag", "picture kind")], []
    color = main_color(shares, 0.4, 0.12)
    if color:
        pairs.append(Pair("What is the main colour of the flag?", color.capitalize(), "flag main colour"))
        facts.append(f"mainly {color}")
    places = []
    for place, (rows, columns) in EDGES.items():
        local = main_color(color_shares(pixels[rows, columns]), 0.9, 0.8)
        if local:
            pairs.append(Pair(f"What colour is the flag {place}?", local.capitalize(), "flag colour at a place"))
            places.append(f"{local} {place}")
    direction = _stripes(pixels)
    if direction:
        pairs.append(Pair("Do the stripes run across or down the flag?", direction, "flag stripes"))
        facts.append(f"with stripes that run {direction.lower()}")
    contained = [asked for asked in ASKED if shares[asked] > 0.04]
    for asked in sorted(ASKED, key=lambda asked: fraction("flag colour", code, asked))[:NUM_ASKED]:
        if shares[asked] > 0.05 or shares[asked] < 0.004:
            pairs.append(Pair(f"Is there {asked} in the flag?", yes_no(shares[asked] > 0.05), "flag contains"))
    pairs.append(Pair("Which country or territory has this flag?", name, "flag country", closed=False))
    caption = f"The flag of {name}, {', '.join([*facts, 'with ' + ' and '.join(contained), *places])}."
    return Item(
        f"flag-{code}",
        picture,
        GENERAL,
        "iso-flags",
        "flag",
        "public domain",
        split_of_key("flag", code),
        caption,
        tuple(pairs),
        lossless=True,
    )


def _stripes(pixels: np.ndarray) -> str | None:
    """Across when nearly every row has one colour, down when nearly every column has, None for any other flag."""
    inner = pixels[2:-2, 2:-2].astype(np.float64)
    rows, columns = (inner.std(axis=axis).mean(-1) for axis in (1, 0))
    if (rows < 12).mean() > 0.9 and (columns < 12).mean() < 0.5:
        return "Across"
    return "Down" if (columns < 12).mean() > 0.9 and (rows < 12).mean() < 0.5 else None
